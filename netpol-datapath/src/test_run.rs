//! A program on one packet: `BPF_PROG_TEST_RUN`.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::error::Error;
use super::load::classifier;
use super::{Datapath, Program};

/// Where a packet pretends to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestContext {
    /// The hook's device; one that exists in this network namespace.
    pub ifindex: u32,
    /// The device through which the packet came; 0 if the node made it. The kernel attaches a socket to every test
    /// packet, so that 0 means the node itself.
    pub ingress_ifindex: u32,
    /// The packet mark before.
    pub mark: u32,
}

/// What a program did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestOutcome {
    /// `TCX_NEXT` (-1) or `TC_ACT_SHOT` (2).
    pub action: i32,
    /// The packet mark after.
    pub mark: u32,
}

impl TestOutcome {
    /// Whether the packet goes on.
    pub const fn is_pass(&self) -> bool {
        self.action == -1
    }
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`): what may be set, by its offset.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SkBuff {
    before_mark: [u32; 2],
    mark: u32,
    before_ingress_ifindex: [u32; 6],
    ingress_ifindex: u32,
    ifindex: u32,
    rest: [u32; 37],
}

impl Datapath {
    /// Runs a program on the same frame so many times; returns what the last run did, and the time of one.
    ///
    /// # Errors
    /// As [`Datapath::test_run`].
    pub fn time_runs(
        &mut self,
        program: Program,
        frame: &[u8],
        context: TestContext,
        n_runs: u32,
    ) -> Result<(TestOutcome, Duration), Error> {
        self.run_repeatedly(program, frame, context, n_runs)
    }

    /// Runs a program on a frame that starts with its Ethernet header. Maps are read and written as for a real
    /// packet.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::TestRun`] when the device does not exist, or the frame has no byte after
    /// its Ethernet header.
    pub fn test_run(
        &mut self,
        program: Program,
        frame: &[u8],
        context: TestContext,
    ) -> Result<TestOutcome, Error> {
        self.run_repeatedly(program, frame, context, 1).map(|(outcome, _)| outcome)
    }

    fn run_repeatedly(
        &mut self,
        program: Program,
        frame: &[u8],
        context: TestContext,
        n_runs: u32,
    ) -> Result<(TestOutcome, Duration), Error> {
        let TestContext { ifindex, ingress_ifindex, mark } = context;
        let mut before = SkBuff::new_zeroed();
        before.mark = mark;
        before.ingress_ifindex = ingress_ifindex;
        before.ifindex = ifindex;
        let mut after = SkBuff::new_zeroed();
        let outcome = classifier(&mut self.ebpf, program)?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(before.as_bytes()),
                ctx_out: Some(after.as_mut_bytes()),
                repeat: n_runs,
                ..TestRunOptions::new()
            })
            .map_err(|source| Error::TestRun { program: program.name(), source })?;
        let action = outcome.return_value.cast_signed();
        Ok((TestOutcome { action, mark: after.mark }, outcome.duration))
    }
}
