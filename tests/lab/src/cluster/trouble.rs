//! Faults on demand that every server supports: connections, history, authentication, and authorisation.

use anyhow::{Context as _, Result};
use netpol_policy::model::Kind;

use super::admin::collection;
use super::{Able, Cluster, NO_ACCOUNT, Rules, Server, Side, account, unable};
use crate::fake_api::StreamingLists;

impl Cluster {
    /// Causes the server to send a bookmark to the watches of a kind: another object changes, and a consistent list of the
    /// kind asks for progress. A real server sends the bookmark within about a minute.
    ///
    /// # Errors
    /// The server refuses a request.
    pub async fn provoke_bookmark(&self, kind: Kind) -> Result<()> {
        match self.side() {
            Side::InProcess(api) => api.send_bookmark(kind),
            Side::Real(admin) => drop(admin.list(&collection(kind.as_str(), "")?).await?),
        }
        Ok(())
    }

    /// Breaks every connection of the agent.
    pub fn break_connections(&self) {
        self.proxy.break_connections();
    }

    /// Makes the server unreachable until [`Cluster::open_again`]. The server keeps running.
    pub fn close(&self) {
        self.proxy.close();
    }

    /// Lets the agent reach the server again.
    ///
    /// # Errors
    /// The port cannot be listened on.
    pub fn open_again(&self) -> Result<()> {
        let open = || Ok(self.proxy.open_again()?);
        match &self.netns {
            Some(netns) => netns.inside(open),
            None => open(),
        }
    }

    /// Blackholes the agent's connections without closing them; new connections work.
    pub fn forget_connections(&self) {
        self.proxy.forget_connections();
    }

    /// Compacts the server's history, so that a watch cannot resume from any version but the newest.
    ///
    /// # Errors
    /// The server does not start again.
    pub async fn forget_history(&mut self) -> Result<Able> {
        match &mut self.server {
            Server::InProcess(api) => api.compact(),
            // After a restart its watch caches hold only the current objects.
            Server::Started(plane) => {
                plane.stop();
                plane.start_again().await?;
            }
            Server::Given(_) => return Ok(unable("an existing server is not restarted")),
        }
        Ok(Able::Yes)
    }

    /// Makes the server refuse streaming lists (`sendInitialEvents`).
    ///
    /// # Errors
    /// The server does not start again.
    pub async fn refuse_streaming_lists(&mut self) -> Result<Able> {
        match &mut self.server {
            Server::InProcess(api) => api.streaming_lists(StreamingLists::Refused),
            Server::Started(plane) => {
                plane.restart_with(&["--feature-gates=WatchList=false"]).await?;
            }
            Server::Given(_) => return Ok(unable("an existing server's settings are not changed")),
        }
        Ok(Able::Yes)
    }

    /// Stops the server if the test started it, else closes the proxy.
    pub fn stop_server(&mut self) {
        self.close();
        if let Server::Started(plane) = &mut self.server {
            plane.stop();
        }
    }

    /// Starts the stopped server. It is unreachable until [`Cluster::open_again`].
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_server(&mut self) -> Result<()> {
        match &mut self.server {
            Server::Started(plane) => plane.start_again().await,
            Server::InProcess(_) | Server::Given(_) => Ok(()),
        }
    }

    /// Gives the server a certificate that the agent does not trust until [`Cluster::trust_server`].
    ///
    /// # Errors
    /// The server does not start again.
    pub async fn change_authority(&mut self) -> Result<Able> {
        let Some(plane) = self.as_started() else { return Ok(Able::No) };
        plane.change_authority().await?;
        self.break_connections();
        Ok(Able::Yes)
    }

    /// Adds the server's new CA to the agent's CA file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn trust_server(&self) -> Result<()> {
        let Server::Started(plane) = &self.server else { return Ok(()) };
        account::write_trusted(self.folder.path(), plane.trusted())
    }

    /// Revokes the agent's token; returns when the server refuses it.
    ///
    /// # Errors
    /// The server still accepts it.
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

    /// Writes a new token to the agent's file.
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

    /// Removes the agent's permission to read a kind, or restores it. A running watch may continue.
    ///
    /// # Errors
    /// The server refuses the change.
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
