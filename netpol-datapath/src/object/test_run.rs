//! Test runs: a program on one frame, by `BPF_PROG_TEST_RUN`.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::loader::classifier;
use crate::error::Error;
use crate::program::Program;

/// The context that a test run simulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestContext {
    /// The hook's device; one that exists in this network namespace.
    pub ifindex: u32,
    /// The device that received the packet; 0 if the node sent it. The programs take 0 for the node itself, because the
    /// kernel gives every test packet a socket.
    pub ingress_ifindex: u32,
    /// The packet mark before the run.
    pub mark: u32,
}

/// The outcome of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestOutcome {
    /// `TCX_NEXT` (-1), `TC_ACT_SHOT` (2) or `TC_ACT_REDIRECT` (7). A test run redirects nothing.
    pub action: i32,
    /// The packet mark after the run.
    pub mark: u32,
}

impl TestOutcome {
    /// Whether the program passed the packet, redirected or not.
    pub const fn is_pass(&self) -> bool {
        self.action == -1 || self.is_redirected()
    }

    /// Whether the program redirected the packet.
    pub const fn is_redirected(&self) -> bool {
        self.action == 7
    }
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`): the fields that a test run can set, at their offsets.
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

/// Runs a program `n_runs` times on the same frame, which starts with its Ethernet header. Returns the outcome of the last
/// run, and the mean time of a run.
///
/// # Errors
/// [`Error::Missing`]; [`Error::TestRun`] if the device does not exist, or the frame has no byte after its Ethernet header.
pub(crate) fn test_run(
    ebpf: &mut Ebpf,
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
    let outcome = classifier(ebpf, program)?
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
