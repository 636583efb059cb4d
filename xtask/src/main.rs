//! Set-up, build, demo, tests and checks.
fn main() {}
