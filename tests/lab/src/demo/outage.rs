//! `kill -9` of the agent under traffic: the kernel keeps enforcing, and the next agent takes over.

use std::fmt::Write as _;

use anyhow::Result;

use super::cast::CLIENT;
use super::screen::Check;
use crate::node::netns::Counter;
use crate::node::{Family, Host, Lab, Stream};
use crate::probe::{Protocol, StreamReport};

/// Between two messages of a stream, in microseconds.
const PACE_US: u64 = 2000;

/// Minimum number of messages on each stream in every phase.
const N_MESSAGES: u64 = 150;

/// The streams, and the counters at their start.
pub(super) struct Outage {
    /// Allowed: client to redis.
    tcp: Stream,
    /// Allowed: client to dns.
    udp: Stream,
    /// Denied: grafana to redis.
    denied: Stream,
    n_denied_arrived: u64,
    n_sent_again: u64,
}

impl Outage {
    /// Starts the streams and waits until all of them flow.
    ///
    /// # Errors
    /// A stream does not start.
    pub(super) fn begin(lab: &Lab) -> Result<Self> {
        let redis = lab.socket_address(&Host::pod("shop/redis"), Family::V4, 6379)?;
        let dns = lab.socket_address(&Host::pod("kube-system/dns"), Family::V6, 53)?;
        let client = Host::pod(CLIENT);
        let grafana = Host::pod("monitoring/grafana");
        let n_denied_arrived = n_denied_arrived(lab)?;
        let n_sent_again = lab.netns(&client)?.counter(Counter::TcpSentAgain)?;
        let mut outage = Self {
            tcp: lab.stream(&client, Protocol::Tcp, redis, PACE_US)?,
            udp: lab.stream(&client, Protocol::Udp, dns, PACE_US)?,
            denied: lab.stream(&grafana, Protocol::Udp, redis, PACE_US)?,
            n_denied_arrived,
            n_sent_again,
        };
        outage.flow()?;
        Ok(outage)
    }

    /// Waits until more messages have been sent and, on allowed streams, answered.
    ///
    /// # Errors
    /// An allowed stream has stopped.
    pub(super) fn flow(&mut self) -> Result<()> {
        self.tcp.wait_for_answers(N_MESSAGES)?;
        self.udp.wait_for_answers(N_MESSAGES)?;
        self.denied.wait_for_messages(N_MESSAGES)?;
        Ok(())
    }

    /// Ends the streams and checks their reports.
    ///
    /// # Errors
    /// A stream does not end.
    pub(super) fn end(self, lab: &Lab) -> Result<[Check; 3]> {
        let Self { tcp, udp, denied, n_denied_arrived: denied_before, n_sent_again } = self;
        let (tcp, udp, denied) = (tcp.finish()?, udp.finish()?, denied.finish()?);
        let n_sent_again =
            lab.netns(&Host::pod(CLIENT))?.counter(Counter::TcpSentAgain)? - n_sent_again;
        let n_leaked = n_denied_arrived(lab)? - denied_before;
        let fared = |what: &str, report: &StreamReport| {
            let StreamReport { n_received, longest_gap_ms, error, .. } = report;
            let n_lost = report.n_missing();
            let ended = error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
            let text = format!(
                "allowed, {what}: {n_received} messages there and back, {n_lost} lost, \
                 longest gap {longest_gap_ms} ms{ended}"
            );
            let faults = [n_lost > 0, error.is_some()];
            Check { text, n_faults: faults.into_iter().filter(|fault| *fault).count() }
        };
        let mut tcp_check = fared("TCP client -> redis", &tcp);
        write!(tcp_check.text, ", {n_sent_again} segments sent twice")?;
        let n_sent = denied.n_sent;
        Ok([
            fared("UDP client -> dns", &udp),
            tcp_check,
            Check {
                text: format!(
                    "denied, UDP grafana -> redis: {n_sent} messages sent, {n_leaked} arrived"
                ),
                n_faults: usize::from(n_leaked > 0),
            },
        ])
    }
}

/// UDP datagrams that arrived at redis. Only the denied stream sends any.
fn n_denied_arrived(lab: &Lab) -> Result<u64> {
    lab.netns(&Host::pod("shop/redis"))?.counter(Counter::UdpArrived)
}
