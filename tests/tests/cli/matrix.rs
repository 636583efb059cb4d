//! `simulate -f`: the reachability matrix.

use expect_test::expect;

use crate::{SHOP, check, output_on};

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

            - ops/probe -> shop/db: pg/TCP
            opens: 0 pairs of pods, closes: 1 pair
            ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
        "#]],
    );
    check(
        "netpol simulate -f DIR/repaired.yaml --what-if -f DIR/repaired.yaml -o json",
        &expect![[r#"
            exit code 0
            []
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

#[test]
fn a_matrix_is_a_table_or_a_graph() {
    let command = "netpol simulate -f DIR/shop.yaml -f DIR/repaired.yaml";
    check(
        &format!("{command} -n shop -o md"),
        &expect![[r#"
        exit code 0
        | 5432/TCP | shop/db |
        |---|---|
        | shop/db | |
        | shop/web | yes |

        | 8080/TCP | shop/web |
        |---|---|
        | shop/db | yes |
        | shop/web | |

        ! netpol: DIR/shop.yaml:29: NetworkPolicy shop/db: is defined again at DIR/repaired.yaml:2: the later definition is used [defined-twice]
    "#]],
    );
    check(
        &format!("{command} -n shop -o dot"),
        &expect![[r#"
        exit code 0
        digraph netpol {
          rankdir=LR;
          node [shape=box];
          n0 [label="shop/db"];
          n1 [label="shop/web"];
          n0 -> n1 [label="8080/TCP"];
          n1 -> n0 [label="5432/TCP"];
        }
        ! netpol: DIR/shop.yaml:29: NetworkPolicy shop/db: is defined again at DIR/repaired.yaml:2: the later definition is used [defined-twice]
    "#]],
    );
    check(
        &format!("{command} -n shop -o mermaid"),
        &expect![[r#"
        exit code 0
        flowchart LR
          n0["shop/db"]
          n1["shop/web"]
          n0 -->|"8080/TCP"| n1
          n1 -->|"5432/TCP"| n0
        ! netpol: DIR/shop.yaml:29: NetworkPolicy shop/db: is defined again at DIR/repaired.yaml:2: the later definition is used [defined-twice]
    "#]],
    );
    check(
        &format!("{command} -n shop -o csv --address 8.8.8.8"),
        &expect![[r#"
        exit code 0
        from,to,port,protocol,verdict
        shop/db,8.8.8.8,5432,TCP,allow
        shop/web,shop/db,5432,TCP,allow
        shop/web,8.8.8.8,5432,TCP,allow
        8.8.8.8,shop/db,5432,TCP,deny
        shop/db,shop/web,8080,TCP,allow
        shop/db,8.8.8.8,8080,TCP,allow
        shop/web,8.8.8.8,8080,TCP,allow
        8.8.8.8,shop/web,8080,TCP,allow
        ! netpol: DIR/shop.yaml:29: NetworkPolicy shop/db: is defined again at DIR/repaired.yaml:2: the later definition is used [defined-twice]
    "#]],
    );
}

#[test]
fn a_matrix_marks_what_changes() {
    let command =
        "netpol simulate -f DIR/shop.yaml --matrix --port pg --what-if -f DIR/repaired.yaml";
    check(
        &format!("{command} -o md"),
        &expect![[r#"
        exit code 0
        | pg/TCP | ops/probe | shop/db | shop/web |
        |---|---|---|---|
        | ops/probe | | **yes → no** | no |
        | shop/db | no | | no |
        | shop/web | no | yes | |

        ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
    check(
        &format!("{command} -o dot"),
        &expect![[r#"
        exit code 0
        digraph netpol {
          rankdir=LR;
          node [shape=box];
          n0 [label="ops/probe"];
          n1 [label="shop/db"];
          n2 [label="shop/web"];
          n0 -> n1 [label="pg/TCP", color=red, style=dashed];
          n2 -> n1 [label="pg/TCP"];
        }
        ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
    check(
        &format!("{command} -o mermaid"),
        &expect![[r#"
        exit code 0
        flowchart LR
          n0["ops/probe"]
          n1["shop/db"]
          n2["shop/web"]
          n0 -.->|"pg/TCP"| n1
          n2 -->|"pg/TCP"| n1
        ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
    check(
        &format!("{command} -o csv"),
        &expect![[r#"
        exit code 0
        from,to,port,protocol,verdict,before
        ops/probe,shop/db,pg,TCP,deny,allow
        ops/probe,shop/web,pg,TCP,deny,deny
        shop/db,ops/probe,pg,TCP,deny,deny
        shop/db,shop/web,pg,TCP,deny,deny
        shop/web,ops/probe,pg,TCP,deny,deny
        shop/web,shop/db,pg,TCP,allow,allow
        ! netpol: DIR/shop.yaml:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]],
    );
}

/// A table that is wider than the terminal was wrapped by the terminal in the middle of its cells.
#[test]
fn a_table_that_is_wider_than_the_terminal_is_a_list() {
    let directory = tempfile::tempdir().unwrap();
    let on = |width| {
        output_on(Some(width), directory.path(), "netpol simulate -f - --color never", SHOP)
    };
    let wide = on(120);
    let width = wide.lines().filter(|line| line.starts_with('+')).map(str::len).max().unwrap();
    assert!(wide.contains("+=="), "{wide}");
    assert_eq!(on(width), wide);
    let list = on(width - 1);
    assert!(!list.contains("+=="), "{list}");
    expect![[r#"
        exit code 0
        shop/db 5432/TCP <- everybody
        shop/web 8080/TCP <- everybody
        ! netpol: -:40: NetworkPolicy shop/db: spec.ingress[1].ports[1].port 70000 is not within 1 and 65535: the item matches nothing [invalid-port]
    "#]].assert_eq(&list);
}
