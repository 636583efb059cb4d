// Live drops: the newest first, repeated ones with their count. A drop is explained when it is chosen.

import { announce, byId, h } from "./dom.js";

const MAX_LINES = 200; // Older lines are removed.
const HEADINGS = ["Time (UTC)", "Pod", "Direction", "Peer", "Port", "Reason", "Policy or rule", "Count", ""];

const panel = byId("drops");
let onDrop = () => {};
let events = null;
let isPaused = false;
let nWaiting = 0;

const filter = h("input", { type: "search", placeholder: "all", autocomplete: "off", spellcheck: "false" });
const pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", String(isPaused));
  nWaiting = 0;
  state();
} }, "Pause");
const status = h("p", { class: "muted", role: "status" });
const nodes = h("ul", { class: "findings", "aria-label": "Nodes without an answer" });
const body = h("tbody", {});
panel.append(h("div", { class: "tools" }, h("label", {}, "Pod or peer ", filter), pause,
  h("button", { type: "button", onclick: () => body.replaceChildren() }, "Clear"), status), nodes,
h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Drops" }, h("table", {}, h("caption", { class: "unseen" }, "Dropped packets, the newest first"),
  h("thead", {}, h("tr", {}, ...HEADINGS.map((text) => text === "" ? h("td", {}) : h("th", { scope: "col" }, text)))), body)));

/** Sets what happens when a drop is chosen. */
export const setUp = (callbacks) => { ({ onDrop } = callbacks); };

const state = (text = "Drops of the last 10 s, and new ones as they happen.") => {
  status.textContent = isPaused ? `Paused${nWaiting > 0 ? `: ${nWaiting} not shown` : ""}.` : text;
};

/** Begins to follow, once. */
export const start = () => {
  if (events) return;
  state("Connecting…");
  events = new EventSource("/api/drops");
  events.addEventListener("open", () => state());
  events.addEventListener("error", () => state("The connection broke off; it is tried again."));
  events.addEventListener("message", ({ data }) => receive(JSON.parse(data)));
};

const silentNode = (node) => [...nodes.children].find((item) => item.dataset.node === node);

const receive = (event) => {
  switch (event.kind) {
    case "drop": drop(event); break;
    case "not-shown": row("more", h("td", { colspan: 7 }, `${event.what}: more that are not shown one by one`), h("td", {}, event.n), h("td", {})); break;
    case "left": row("more", h("td", { colspan: 7 }, "more that are not shown"), h("td", {}, event.n), h("td", {})); break;
    case "silent":
      silentNode(event.node)?.remove();
      nodes.append(h("li", { class: "warning", "data-node": event.node }, `node ${event.node} does not answer: ${event.reason}`));
      announce(`node ${event.node} does not answer`);
      break;
    case "back": silentNode(event.node)?.remove(); break;
    case "failed":
      events.close();
      events = null;
      state(event.reason);
      break;
  }
};

const row = (kind, ...cells) => {
  if (isPaused) {
    nWaiting += 1;
    state();
    return;
  }
  const line = h("tr", { class: kind }, ...cells);
  line.hidden = !matches(line);
  body.prepend(line);
  while (body.rows.length > MAX_LINES) body.lastElementChild.remove();
};

const drop = ({ time, node, pod, direction, peer, remote, protocol, port, reason, why, is_audited: isAudited, n }) => {
  const other = peer ?? remote;
  const [from, to] = direction === "egress" ? [pod, other] : [other, pod];
  const canExplain = pod !== null && port > 0;
  row(isAudited ? "audit" : "deny", h("td", {}, time), h("td", { title: `on node ${node}` }, pod ?? "(removed pod)"), h("td", {}, direction),
    h("td", {}, other, peer === null ? null : h("span", { class: "muted" }, ` ${remote}`)), h("td", {}, port === 0 ? protocol : `${port}/${protocol}`),
    h("td", {}, h("span", { class: `cell ${isAudited ? "audit" : "deny"}`, "aria-hidden": "true" }, isAudited ? "A" : "✕"), ` ${reason}`), h("td", {}, why), h("td", {}, n),
    h("td", {}, canExplain ? h("button", { type: "button", "aria-label": `Explain ${from} to ${to}`, onclick: () => onDrop({ from, to, port: String(port), protocol }) }, "Explain") : null));
};

const matches = (line) => line.textContent.toLowerCase().includes(filter.value.trim().toLowerCase());
filter.addEventListener("input", () => { for (const line of body.rows) line.hidden = !matches(line); });
