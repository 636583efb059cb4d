//! Peers and address blocks that the API server refuses.

use expect_test::expect;

use super::*;

#[test]
fn a_peer_is_one_block_or_selectors() {
    check(
        "{ ingress: [{ from: [{}] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-peer spec.ingress[0].from[0] has neither a selector nor an ipBlock: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [null] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-peer spec.ingress[0].from[0] has neither a selector nor an ipBlock: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ podSelector: null }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-peer spec.ingress[0].from[0] has neither a selector nor an ipBlock: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8 }, podSelector: {} }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-peer spec.ingress[0].from[0] has an ipBlock together with a selector: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8 }, namespaceSelector: {} }, { podSelector: {} }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] pods () on every port
            ! invalid-peer spec.ingress[0].from[0] has an ipBlock together with a selector: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [{ podSelector: {}, ports: [{ port: 80 }] }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! unknown-field spec.ingress[0].from[0].ports is not a field of the API, which has podSelector, namespaceSelector, ipBlock here: the peer matches nobody"#]],
    );
    check(
        "{ ingress: [{ from: [web] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! malformed spec.ingress[0].from[0] is a string, not a mapping: the peer matches nobody"#]],
    );
}

#[test]
fn a_block_needs_a_cidr_with_a_length() {
    check(
        "{ ingress: [{ from: [{ ipBlock: {} }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-block spec.ingress[0].from[0].ipBlock.cidr "" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: '' } }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-block spec.ingress[0].from[0].ipBlock.cidr "" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.1 } }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-block spec.ingress[0].from[0].ipBlock.cidr "10.0.0.1" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/33 } }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! invalid-block spec.ingress[0].from[0].ipBlock.cidr "10.0.0.0/33" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10 } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! malformed spec.ingress[0].from[0].ipBlock.cidr is a number, not a string (it needs quotes): the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: 10.0.0.0/8 }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! malformed spec.ingress[0].from[0].ipBlock is a string, not a mapping: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, excepts: [] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! unknown-field spec.ingress[0].from[0].ipBlock.excepts is not a field of the API, which has cidr, except here: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: [10.0.0.0/8] } }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] nobody on every port
        ! malformed spec.ingress[0].from[0].ipBlock.cidr is a list, not a string: the block matches nothing"#]],
    );
}

#[test]
fn blocks_that_older_servers_accepted_are_read_with_a_warning() {
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.1.2.3/8 } }] }] }",
        &expect![[r#"
        default/p isolates () for ingress
        ingress[0] 10.0.0.0/8 on every port
        ! unusual-block spec.ingress[0].from[0].ipBlock.cidr "10.1.2.3/8" has host bits: it is read as 10.0.0.0/8"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: '::ffff:10.0.0.0/104', except: ['::ffff:10.1.0.0/112', 010.02.3.0/16] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] 10.0.0.0/8 but 10.1.0.0/16 10.2.0.0/16 on every port
            ! unusual-block spec.ingress[0].from[0].ipBlock.cidr "::ffff:10.0.0.0/104" has an IPv4-mapped address: it is read as 10.0.0.0/8
            ! unusual-block spec.ingress[0].from[0].ipBlock.except[0] "::ffff:10.1.0.0/112" has an IPv4-mapped address: it is read as 10.1.0.0/16
            ! unusual-block spec.ingress[0].from[0].ipBlock.except[1] "010.02.3.0/16" has leading zeros and host bits: it is read as 10.2.0.0/16"#]],
    );
}

#[test]
fn exceptions_are_sorted_and_once() {
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.2.0.0/16, 10.1.0.0/16, 10.2.0.0/16] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] 10.0.0.0/8 but 10.1.0.0/16 10.2.0.0/16 on every port"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: '::/0', except: ['fd00::/8'] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] ::/0 but fd00::/8 on every port"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 0.0.0.0/0, except: null } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] 0.0.0.0/0 on every port"#]],
    );
}

#[test]
fn an_invalid_exception_leaves_nothing_of_its_block() {
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.0.0.0/8] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[0] 10.0.0.0/8 covers all of the cidr 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [0.0.0.0/0] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[0] 0.0.0.0/0 covers all of the cidr 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [11.0.0.0/16] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[0] 11.0.0.0/16 is outside the cidr 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: ['fd00::/64'] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[0] fd00::/64 is outside the cidr 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.1.0.0/16, nonsense] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[1] "nonsense" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.1.0.1] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[0] "10.1.0.1" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: 10.1.0.0/16 } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! malformed spec.ingress[0].from[0].ipBlock.except is a string, not a list: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [null] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.except[0] "" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
    check(
        "{ ingress: [{ from: [{ ipBlock: { cidr: x, except: [10.1.0.0/16] } }] }] }",
        &expect![[r#"
            default/p isolates () for ingress
            ingress[0] nobody on every port
            ! invalid-block spec.ingress[0].from[0].ipBlock.cidr "x" is not an address block such as 10.0.0.0/8: the block matches nothing"#]],
    );
}
