//! The files of the page, which are parts of the program.

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asset {
    /// Its path on the server.
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The answer to the exchange of the token. Its reload is a request of this page, so that the browser sends the cookie with it, also if
/// another page has opened the address with the token.
pub(super) const ENTRANCE: Asset =
    Asset { path: "/", content_type: HTML, text: include_str!("../assets/entrance.html") };

/// All files.
pub(super) const ASSETS: [Asset; 11] = [
    Asset { path: "/", content_type: HTML, text: include_str!("../assets/index.html") },
    Asset { path: "/style.css", content_type: CSS, text: include_str!("../assets/style.css") },
    Asset { path: "/icon.svg", content_type: SVG, text: include_str!("../assets/icon.svg") },
    Asset { path: "/main.js", content_type: SCRIPT, text: include_str!("../assets/main.js") },
    Asset { path: "/dom.js", content_type: SCRIPT, text: include_str!("../assets/dom.js") },
    Asset { path: "/cells.js", content_type: SCRIPT, text: include_str!("../assets/cells.js") },
    Asset { path: "/matrix.js", content_type: SCRIPT, text: include_str!("../assets/matrix.js") },
    Asset { path: "/graph.js", content_type: SCRIPT, text: include_str!("../assets/graph.js") },
    Asset { path: "/explain.js", content_type: SCRIPT, text: include_str!("../assets/explain.js") },
    Asset {
        path: "/policies.js",
        content_type: SCRIPT,
        text: include_str!("../assets/policies.js"),
    },
    Asset { path: "/drops.js", content_type: SCRIPT, text: include_str!("../assets/drops.js") },
];
