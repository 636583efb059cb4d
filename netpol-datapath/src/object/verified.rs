//! The verifier's figures for a loaded program.

use aya::Ebpf;

use super::loader::classifier;
use crate::error::Error;
use crate::program::Program;

/// Bytes of an eBPF instruction.
const INSTRUCTION_LEN_BYTES: u32 = 8;

/// The verifier's figures for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The program.
    pub program: Program,
    /// Instructions that the verifier walked over all paths; the kernel's limit is a million. `None` before
    /// Linux 5.16.
    pub n_verified: Option<u32>,
    /// Instructions that remain after the verifier has removed unreachable ones.
    pub n_translated: Option<u32>,
    /// Size of the machine code, bytes; 0 if the kernel interprets the program.
    pub len_jited_bytes: u32,
}

/// Reads the figures of a program from the kernel.
///
/// # Errors
/// [`Error::Missing`], [`Error::Refused`].
pub(crate) fn verified(ebpf: &mut Ebpf, program: Program) -> Result<Verified, Error> {
    let figures = classifier(ebpf, program)?
        .info()
        .map_err(|source| Error::Refused { program: program.name(), source })?;
    Ok(Verified {
        program,
        n_verified: figures.verified_instruction_count(),
        n_translated: figures.size_translated().map(|len_bytes| len_bytes / INSTRUCTION_LEN_BYTES),
        len_jited_bytes: figures.size_jitted(),
    })
}
