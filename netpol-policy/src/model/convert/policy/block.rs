//! `ipBlock`.

use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::model::convert::address::{Block, covers, parse_block};
use crate::model::convert::walk::{Findings, Path, quoted};
use crate::model::{Code, IpBlock};

/// What becomes of a block that is not understood, also when it is one of its exceptions: whatever an
/// unreadable exception should have cut out must not be allowed.
const MATCHES_NOTHING: &str = "the block matches nothing";

/// Reads a block. Every exception must lie within it and be smaller.
///
/// Source: networking.k8s.io/v1 `IPBlock`.
pub(super) fn ip_block(value: &Value, path: &Path<'_>, findings: &mut Findings) -> Option<IpBlock> {
    let fields = findings.mapping(path, value, MATCHES_NOTHING)?;
    let all_known = findings.all_known(path, fields, &["cidr", "except"], MATCHES_NOTHING);
    let cidr = block(fields.get("cidr").unwrap_or(&Value::Null), &path.field("cidr"), findings);
    let list_path = path.field("except");
    let holes = findings.list(&list_path, fields.get("except"), MATCHES_NOTHING);
    let mut except = Vec::new();
    let mut is_complete = all_known && holes.is_some();
    for (index, item) in holes.unwrap_or_default().iter().enumerate() {
        match exception(item, cidr, &list_path.item(index), findings) {
            None => is_complete = false,
            Some(hole) => except.push(hole),
        }
    }
    except.sort_unstable();
    except.dedup();
    let block = IpBlock { cidr: cidr?, except };
    is_complete.then_some(block)
}

fn exception(
    value: &Value,
    cidr: Option<IpNetwork>,
    path: &Path<'_>,
    findings: &mut Findings,
) -> Option<IpNetwork> {
    let hole = block(value, path, findings)?;
    let cidr = cidr?;
    if hole == cidr || !covers(cidr, hole) {
        let relation = if covers(hole, cidr) { "covers all of" } else { "is outside" };
        let message = format!("{hole} {relation} the cidr {cidr}: {MATCHES_NOTHING}");
        findings.report(Code::InvalidBlock, path, message);
        return None;
    }
    Some(hole)
}

/// An address block; one that older API servers accepted is read as they meant it.
fn block(value: &Value, path: &Path<'_>, findings: &mut Findings) -> Option<IpNetwork> {
    let text = findings.text(path, value, MATCHES_NOTHING)?;
    let Some(block) = parse_block(text) else {
        let message = format!(
            "{} is not an address block such as 10.0.0.0/8: {MATCHES_NOTHING}",
            quoted(text)
        );
        findings.report(Code::InvalidBlock, path, message);
        return None;
    };
    report_oddities(text, &block, path, findings);
    Some(block.network)
}

/// Reports what is unusual about the text of a block.
pub(in crate::model::convert) fn report_oddities(
    text: &str,
    block: &Block,
    path: &Path<'_>,
    findings: &mut Findings,
) {
    let oddities = block.oddities();
    if !oddities.is_empty() {
        let message = format!(
            "{} has {}: it is read as {}",
            quoted(text),
            oddities.join(" and "),
            block.network
        );
        findings.report(Code::UnusualBlock, path, message);
    }
}
