//! `simulate -f`: the reachability matrix.

use expect_test::expect;

use crate::check;

#[test]
fn the_matrix_is_plain_without_a_terminal() {
    check(
        "netpol simulate -f DIR/shop.yaml --port 5432,53/UDP --address 8.8.8.8",
        &expect![[r#"
            exit code 0
            +-----------+-------+-------+-------+---------+
            | 5432/TCP  |  ops/ | shop/ | shop/ | 8.8.8.8 |
            |           | probe |   db  |  web  |         |
            +=============================================+
            | ops/probe |   .   |  yes  |  yes  |   yes   |
            | shop/db   |  yes  |   .   |  yes  |   yes   |
            | shop/web  |  yes  |  yes  |   .   |   yes   |
            | 8.8.8.8   |  yes  |   no  |  yes  |    .    |
            +-----------+-------+-------+-------+---------+

            +-----------+-------+-------+-------+---------+
            | 53/UDP    |  ops/ | shop/ | shop/ | 8.8.8.8 |
            |           | probe |   db  |  web  |         |
            +=============================================+
            | ops/probe |   .   |   no  |  yes  |   yes   |
            | shop/db   |  yes  |   .   |  yes  |   yes   |
            | shop/web  |  yes  |   no  |   .   |   yes   |
            | 8.8.8.8   |  yes  |   no  |  yes  |    .    |
            +-----------+-------+-------+-------+---------+

            ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
}

#[test]
fn what_if_shows_what_changes() {
    check(
        "netpol simulate -f DIR/shop.yaml --matrix --port pg --what-if -f DIR/repaired.yaml",
        &expect![[r#"
            exit code 0
            +-----------+-------+-----------+-------+
            | pg/TCP    |  ops/ |   shop/   | shop/ |
            |           | probe |     db    |  web  |
            +=======================================+
            | ops/probe |   .   | yes -> no |   no  |
            | shop/db   |   no  |     .     |   no  |
            | shop/web  |   no  |    yes    |   .   |
            +-----------+-------+-----------+-------+

            - ops/probe -> shop/db pg/TCP would be denied
            1 of 6 connections would change
            ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol simulate -f DIR/repaired.yaml --what-if -f DIR/repaired.yaml -o json",
        &expect![[r#"
            exit code 0
            []
            ! netpol: namespace shop has no Namespace object: its only label is assumed to be its name
        "#]],
    );
}

#[test]
fn a_matrix_of_incomplete_input_exits_with_2() {
    check(
        "netpol simulate -f DIR/shop.yaml -f DIR/broken.yaml --port 1",
        &expect![[r#"
            exit code 2
            +-----------+-------+-------+-------+
            | 1/TCP     |  ops/ | shop/ | shop/ |
            |           | probe |   db  |  web  |
            +===================================+
            | ops/probe |   .   |   no  |  yes  |
            | shop/db   |  yes  |   .   |  yes  |
            | shop/web  |  yes  |   no  |   .   |
            +-----------+-------+-------+-------+

            ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
            ! netpol: DIR/broken.yaml:1: unclosed bracket '[' [syntax]
        "#]],
    );
    check(
        "netpol simulate",
        &expect![[r#"
            exit code 2
            ! error: the following required arguments were not provided:
            !   <--file <PATH>...|--cluster|--cases <FILE>>
            ! 
            ! Usage: netpol simulate <--file <PATH>...|--cluster|--cases <FILE>>
            ! 
            ! For more information, try '--help'.
        "#]],
    );
}
