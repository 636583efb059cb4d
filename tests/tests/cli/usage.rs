//! Help, versions, errors in arguments, and the name under which the program is called.

use expect_test::expect;

use crate::{check, output};

#[test]
fn version_and_help_are_output() {
    assert_eq!(
        output("netpol --version", ""),
        format!("exit code 0\nnetpol {}\n", env!("CARGO_PKG_VERSION"))
    );
    check("netpol help", &expect![[""]]);
    assert_eq!(output("netpol --help", ""), output("netpol help", ""));
    check("netpol explain --help", &expect![[""]]);
    check("netpol lint --help", &expect![[""]]);
    check("netpol simulate -h", &expect![[""]]);
}

#[test]
fn a_missing_command_is_an_error_with_help() {
    let text = output("netpol", "");
    assert!(text.starts_with("exit code 2\n"), "{text}");
    assert!(text.contains("Usage: netpol <COMMAND>"), "{text}");
}

#[test]
fn commands_without_objects_name_the_options_that_give_them() {
    check("netpol explain", &expect![[""]]);
    check("netpol lint", &expect![[""]]);
    check("netpol simulate", &expect![[""]]);
    check("netpol simulate --cases - --cluster", &expect![[""]]);
}

#[test]
fn usage_lines_of_the_kubectl_plugin_begin_with_kubectl() {
    for command in ["help", "explain --help", "lint", "simulate -f", "nonsense"] {
        let standalone = output(&format!("netpol {command}"), "");
        let plugin = output(&format!("/usr/local/bin/kubectl-netpol {command}"), "");
        assert!(plugin.contains("Usage: kubectl netpol"), "{plugin}");
        assert!(!plugin.contains("kubectl-netpol"), "{plugin}");
        assert_eq!(plugin.replace("kubectl netpol", "netpol"), standalone);
    }
}

#[test]
fn completions_are_for_the_file_name_of_the_program() {
    let standalone = output("netpol completions bash", "");
    assert!(standalone.contains("complete -F _netpol"), "{standalone}");
    let plugin = output("kubectl-netpol completions bash", "");
    assert!(plugin.contains(" kubectl-netpol\n"), "{plugin}");
}
