//! What goes wrong on demand at every server: between the agent and it, with its memory, with who is let in.

use anyhow::{Context as _, Result};
use netpol_policy::model::Kind;

use super::admin::collection;
use super::{Able, Cluster, NO_ACCOUNT, Rules, Server, Side, account, unable};
use crate::fake_api::StreamingLists;

impl Cluster {
    /// Gives the server a reason to send the watches of a kind a bookmark: something else has changed since, and somebody
    /// wants to know how far the kind is. A real one sends it within about a minute.
    ///
    /// # Errors
    /// The server does not tell the kind.
    pub async fn provoke_bookmark(&self, kind: Kind) -> Result<()> {
        match self.side() {
            Side::InProcess(api) => api.send_bookmark(kind),
            Side::Real(admin) => drop(admin.list(&collection(kind.as_str(), "")?).await?),
        }
        Ok(())
    }

    /// Breaks every connection of the agent.
    pub fn break_connections(&self) {
        self.way.break_connections();
    }

    /// Lets nobody reach the server, until [`Cluster::open_again`]. The server goes on.
    pub fn close(&self) {
        self.way.close();
    }

    /// Lets the agent reach the server again.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub fn open_again(&self) -> Result<()> {
        let open = || Ok(self.way.open_again()?);
        match &self.netns {
            Some(netns) => netns.inside(open),
            None => open(),
        }
    }

    /// The agent's connections stay, but nothing comes through any more; new ones are as before.
    pub fn forget_connections(&self) {
        self.way.forget_connections();
    }

    /// Makes the server forget which versions there were, so that a watch cannot go on from one that is not the newest.
    ///
    /// # Errors
    /// The server does not start again.
    pub async fn forget_history(&mut self) -> Result<Able> {
        match &mut self.server {
            Server::InProcess(api) => api.compact(),
            // Its caches begin with what there is.
            Server::Started(plane) => {
                plane.stop();
                plane.start_again().await?;
            }
            Server::Given(_) => return Ok(unable("the server of others is not started anew")),
        }
        Ok(Able::Yes)
    }

    /// Lets a server refuse watches that begin with a list.
    ///
    /// # Errors
    /// The server does not start again.
    pub async fn refuse_streaming_lists(&mut self) -> Result<Able> {
        match &mut self.server {
            Server::InProcess(api) => api.streaming_lists(StreamingLists::Refused),
            Server::Started(plane) => {
                plane.restart_with(&["--feature-gates=WatchList=false"]).await?;
            }
            Server::Given(_) => return Ok(unable("the server of others keeps its settings")),
        }
        Ok(Able::Yes)
    }

    /// Ends the server's life, if it is the test's own, or else the way to it.
    pub fn stop_server(&mut self) {
        self.close();
        if let Server::Started(plane) = &mut self.server {
            plane.stop();
        }
    }

    /// Starts the server that was stopped. Nobody reaches it before [`Cluster::open_again`].
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_server(&mut self) -> Result<()> {
        match &mut self.server {
            Server::Started(plane) => plane.start_again().await,
            Server::InProcess(_) | Server::Given(_) => Ok(()),
        }
    }

    /// Gives the server a certificate that the agent has no reason to trust, until [`Cluster::trust_server`].
    ///
    /// # Errors
    /// The server does not start again.
    pub async fn change_authority(&mut self) -> Result<Able> {
        let Some(plane) = self.as_started() else { return Ok(Able::No) };
        plane.change_authority().await?;
        self.break_connections();
        Ok(Able::Yes)
    }

    /// Writes down for the agent whom to trust.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn trust_server(&self) -> Result<()> {
        let Server::Started(plane) = &self.server else { return Ok(()) };
        account::write_trusted(self.folder.path(), plane.trusted())
    }

    /// Makes the agent's token worthless; returns when the server refuses it.
    ///
    /// # Errors
    /// The server goes on taking it.
    pub async fn revoke_token(&self) -> Result<()> {
        match self.side() {
            Side::InProcess(api) => api.require_token(&format!("token-{}", self.n_tokens + 1)),
            Side::Real(admin) => {
                let account = self.account.as_ref().context(NO_ACCOUNT)?;
                account.revoke(admin, self.n_tokens, self.folder.path()).await?;
            }
        }
        Ok(())
    }

    /// Puts another token in the agent's file.
    ///
    /// # Errors
    /// The server issues none.
    pub async fn renew_token(&mut self) -> Result<()> {
        self.n_tokens += 1;
        let token = match self.side() {
            Side::InProcess(_) => format!("token-{}", self.n_tokens),
            Side::Real(admin) => {
                let account = self.account.as_ref().context(NO_ACCOUNT)?;
                account.token(admin, self.n_tokens).await?
            }
        };
        account::write_token(self.folder.path(), &token)
    }

    /// Takes a kind out of what the agent may read, or puts it back. A watch that is under way may go on.
    ///
    /// # Errors
    /// The server refuses that.
    pub async fn restrict(&self, rules: Rules) -> Result<()> {
        match self.side() {
            Side::InProcess(api) => {
                let forbidden = match rules {
                    Rules::Deployed => None,
                    Rules::Without(kind) => Some(kind),
                };
                api.forbid(forbidden);
                Ok(())
            }
            Side::Real(_) => {
                self.put(self.account.as_ref().context(NO_ACCOUNT)?.role(rules)?).await
            }
        }
    }
}
