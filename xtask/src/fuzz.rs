//! `cargo xtask fuzz [TARGET]`: searches for inputs for which a check of `fuzz/src` fails.
//!
//! CI runs the same checks on earlier findings.

use anyhow::{Context as _, Result};

use crate::{setup, shell, term};

/// Options of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The target; without it, all targets one after the other.
    #[arg(value_enum)]
    subject: Option<Subject>,
    /// Time per target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only compile the targets.
    #[arg(long)]
    check: bool,
}

/// A fuzz target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    /// Frames, with random map contents.
    Packet,
    /// Network configurations for the CNI plugin.
    #[value(name = "net_conf")]
    NetConf,
    /// Manifests, from text to maps.
    Manifests,
}

impl Subject {
    const ALL: [Self; 3] = [Self::Packet, Self::NetConf, Self::Manifests];

    const fn name(self) -> &'static str {
        match self {
            Self::Packet => "packet",
            Self::NetConf => "net_conf",
            Self::Manifests => "manifests",
        }
    }

    /// Folders of seed inputs.
    const fn seeds(self) -> &'static [&'static str] {
        match self {
            Self::Packet => &[],
            Self::NetConf => &["fuzz/seeds/net_conf"],
            Self::Manifests => &["deploy/examples", "tests/scenarios"],
        }
    }
}

/// Sets up, builds with sanitizers, and fuzzes.
///
/// # Errors
/// The set-up or the build failed, or an input was found, which the output names.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { subject, seconds, check } = options;
    setup::ensure(setup::Purpose::Building)?;
    if *check {
        return compile();
    }
    setup::for_fuzzing()?;
    let subjects = subject.as_ref().map_or(Subject::ALL.as_slice(), std::slice::from_ref);
    for subject in subjects {
        let name = subject.name();
        term::heading(&format!("fuzz {name}"));
        let own = shell::root().join("fuzz/corpus").join(name);
        let found = shell::root().join("fuzz/regressions").join(name);
        for folder in [&own, &found] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("making {}", folder.display()))?;
        }
        let mut fuzz = shell::command("nice");
        // Enables the sanitizers in the pinned stable compiler.
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        fuzz.args(["cargo", "fuzz", "run", name]).arg(own).arg(found);
        fuzz.args(subject.seeds().iter().map(|folder| shell::root().join(folder)));
        fuzz.arg("--");
        fuzz.arg(format!("-max_total_time={seconds}"));
        fuzz.args(["-max_len=8192", "-timeout=10", "-print_final_stats=1"]);
        shell::run(&mut fuzz).with_context(|| {
            format!(
                "move the input to fuzz/regressions/{name}, under a name that says what goes wrong"
            )
        })?;
    }
    Ok(())
}

/// Checks that the targets compile, without sanitizers.
///
/// # Errors
/// They do not compile.
pub(crate) fn compile() -> Result<()> {
    let mut check = shell::cargo(["check", "--quiet", "--locked", "--manifest-path"]);
    check.arg("fuzz/Cargo.toml").arg("--target-dir").arg("target/fuzz");
    shell::run(&mut check)
}
