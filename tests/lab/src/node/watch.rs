//! Packet counters at a netfilter hook, by nftables rules of our own.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::nat::feed;
use super::netns::Netns;

/// The table of the counters.
const TABLE: &str = "watch";

/// Counters in a namespace, which last as long as it.
#[derive(Debug)]
pub struct Watch {
    netns: Netns,
    family: String,
}

impl Watch {
    /// Adds counters to a base chain, such as `type filter hook postrouting priority 300`, in a table of a family, such as
    /// `inet`. Each counter has a name and a match expression.
    ///
    /// # Errors
    /// `nft` refuses the rules.
    pub fn start(
        netns: &Netns,
        family: &str,
        chain: &str,
        counters: &[(&str, &str)],
    ) -> Result<Self> {
        let mut rules = format!("table {family} {TABLE} {{\n");
        for (name, _) in counters {
            writeln!(rules, "counter {name} {{ }}")?;
        }
        writeln!(rules, "chain watched {{\n{chain};")?;
        for (name, condition) in counters {
            writeln!(rules, "{condition} counter name {name}")?;
        }
        rules.push_str("}\n}\n");
        feed(netns, Command::new("nft").args(["-f", "-"]), &rules)?;
        Ok(Self { netns: netns.clone(), family: family.to_owned() })
    }

    /// The value of a counter.
    ///
    /// # Errors
    /// There is no such counter.
    pub fn count(&self, counter: &str) -> Result<u64> {
        let mut command = Command::new("nft");
        command.args(["list", "counter", &self.family, TABLE, counter]);
        let output = self.netns.inside(|| command.output().context("starting nft"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let number = text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next());
        let number = number.with_context(|| format!("nft says no number: {text}"))?;
        number.parse().with_context(|| format!("`{number}` is no number"))
    }
}
