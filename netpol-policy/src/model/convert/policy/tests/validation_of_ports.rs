//! Ports that the API server refuses.

use expect_test::expect;

use super::*;

#[test]
fn an_item_that_is_not_understood_matches_nothing() {
    check(
        "{ ingress: [{ ports: [80, [], TCP, { port: 443 }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on TCP/443
        ! malformed spec.ingress[0].ports[0] is a number, not a mapping: the item matches nothing
        ! malformed spec.ingress[0].ports[1] is a list, not a mapping: the item matches nothing
        ! malformed spec.ingress[0].ports[2] is a string, not a mapping: the item matches nothing"#]],
    );
    check(
        "{ ingress: [{ ports: [{ prot: UDP }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] everybody on no port
        ! unknown-field spec.ingress[0].ports[0].prot is not a field of the API, which has protocol, port, endPort here: the item matches nothing"#]],
    );
    check(
        "{ ingress: [{ ports: {} }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ! malformed spec.ingress[0].ports is a mapping, not a list: the rule allows nothing"#]],
    );
}

#[test]
fn port_numbers_are_whole_and_within_1_and_65535() {
    check(
        "{ ingress: [{ ports: [{ port: 0 }, { port: 65536 }, { port: -1 }, { port: 80.5 }, { port: 1 }, { port: 65535 }, { port: true }, { port: [80] }, { port: 99999999999999999999 }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] everybody on TCP/1, TCP/65535
            ! invalid-port spec.ingress[0].ports[0].port 0 is not within 1 and 65535: the item matches nothing
            ! invalid-port spec.ingress[0].ports[1].port 65536 is not within 1 and 65535: the item matches nothing
            ! invalid-port spec.ingress[0].ports[2].port -1 is not within 1 and 65535: the item matches nothing
            ! malformed spec.ingress[0].ports[3].port 80.5 is not a whole number: the item matches nothing
            ! malformed spec.ingress[0].ports[6].port is a boolean, not a whole number or a name: the item matches nothing
            ! malformed spec.ingress[0].ports[7].port is a list, not a whole number or a name: the item matches nothing
            ! malformed spec.ingress[0].ports[8].port 1e+20 is not a whole number: the item matches nothing"#]],
    );
}

#[test]
fn port_names_have_the_syntax_of_service_names() {
    check(
        "{ ingress: [{ ports: [{ port: '80' }, { port: Http }, { port: '' }, { port: a--b }, { port: abcdefghijklmnop }, { port: http }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] everybody on TCP/http
            ! invalid-port spec.ingress[0].ports[0].port "80" is not a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[1].port "Http" is not a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[2].port "" is not a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[3].port "a--b" is not a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[4].port "abcdefghijklmnop" is not a port name: the item matches nothing"#]],
    );
}

#[test]
fn protocols_are_tcp_udp_and_sctp() {
    check(
        "{ ingress: [{ ports: [{ protocol: tcp }, { protocol: '' }, { protocol: ICMP }, { protocol: 6 }, { protocol: SCTP }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] everybody on SCTP
            ! invalid-port spec.ingress[0].ports[0].protocol "tcp" is not TCP, UDP or SCTP: the item matches nothing
            ! invalid-port spec.ingress[0].ports[1].protocol "" is not TCP, UDP or SCTP: the item matches nothing
            ! invalid-port spec.ingress[0].ports[2].protocol "ICMP" is not TCP, UDP or SCTP: the item matches nothing
            ! malformed spec.ingress[0].ports[3].protocol is a number, not a string (it needs quotes): the item matches nothing"#]],
    );
}

#[test]
fn an_end_port_needs_a_number_that_is_not_above_it() {
    check(
        "{ ingress: [{ ports: [{ endPort: 80 }, { port: http, endPort: 80 }, { port: 81, endPort: 80 }, { port: 80, endPort: 65536 }, { port: 80, endPort: 0 }, { port: 80, endPort: https }, { port: Bad, endPort: 5 }, { port: 0, endPort: 70000 }, { port: 80, endPort: 80 }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] everybody on TCP/80
            ! invalid-port spec.ingress[0].ports[0].endPort needs a port to begin with: the item matches nothing
            ! invalid-port spec.ingress[0].ports[1].endPort cannot follow a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[2].endPort 80 is below port 81: the item matches nothing
            ! invalid-port spec.ingress[0].ports[3].endPort 65536 is not within 1 and 65535: the item matches nothing
            ! invalid-port spec.ingress[0].ports[4].endPort 0 is not within 1 and 65535: the item matches nothing
            ! malformed spec.ingress[0].ports[5].endPort is a string, not a whole number: the item matches nothing
            ! invalid-port spec.ingress[0].ports[6].port "Bad" is not a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[6].endPort cannot follow a port name: the item matches nothing
            ! invalid-port spec.ingress[0].ports[7].port 0 is not within 1 and 65535: the item matches nothing
            ! invalid-port spec.ingress[0].ports[7].endPort 70000 is not within 1 and 65535: the item matches nothing"#]],
    );
}
