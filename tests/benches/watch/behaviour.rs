//! x
pub(crate) fn report() -> anyhow::Result<()> { Ok(()) }
