// Why: the explanation of a connection, the pairs behind a cell of namespaces, and a form for any connection.

import { CHANGES, STATES, concerns, portInWords, verdictState } from "./cells.js";
import { announce, ask, byId, h } from "./dom.js";

const MAX_PAIRS = 60; // Pairs that are listed of a cell of namespaces.
const PROTOCOLS = ["TCP", "UDP", "SCTP"];

const panel = byId("explain");
let onPolicy = () => {};
let onChoice = () => {};
let view = 0;
let latest = 0; // An older answer than the latest question is not shown.

const field = (name, label, properties) => h("label", {}, label, h("input", { name, required: true, autocomplete: "off", spellcheck: "false", ...properties }));

const form = h("form", { class: "ask", "aria-label": "Any connection" },
  field("from", "From", { placeholder: "shop/web, 203.0.113.7, external" }),
  field("to", "To", { placeholder: "shop/redis, redis.shop.svc, external" }),
  h("div", { class: "line" }, field("port", "Port", { placeholder: "80 or http", size: 8 }),
    h("label", {}, "Protocol", h("select", { name: "protocol" }, ...PROTOCOLS.map((name) => h("option", {}, name)))),
    h("button", { type: "submit" }, "Explain")));
const result = h("div", { class: "result" }, h("p", { class: "hint" }, "Choose a cell of the matrix, a workload of the graph or a drop, or name a connection."));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const values = Object.fromEntries(new FormData(form));
  connection({ from: values.from.trim(), to: values.to.trim(), port: values.port.trim(), protocol: values.protocol }, null);
});
panel.append(form, result);

/** Sets what happens when a policy is chosen, and when something is shown. */
export const setUp = (callbacks) => { ({ onPolicy, onChoice } = callbacks); };

/** Later questions are about these objects. */
export const setView = (number) => { view = number; };

const policyButton = ({ kind, namespace, name, effect, rule, is_deciding: isDeciding }) =>
  h("li", { class: isDeciding ? "deciding" : "" },
    h("button", { type: "button", class: "policy", onclick: () => onPolicy({ kind, namespace, name }, rule) },
      kind === "NetworkPolicy" ? `${namespace}/${name}` : `ClusterNetworkPolicy ${name}`, rule === null ? null : h("code", {}, ` ${rule}`)),
    ` ${effect}`, isDeciding ? h("span", { class: "unseen" }, " (decides)") : null);

/** The text of the command, each line with the class of its sign. */
const lines = (text) => h("pre", { class: "lines", tabindex: 0, "aria-label": "Explanation" }, ...text.trimEnd().split("\n").map((line) => {
  const sign = /^ {2}([+x>?!-]) /.exec(line)?.[1];
  const kind = { "+": "allow", x: "deny", "-": "miss", "!": "finding" }[sign] ?? "";
  return h("span", { class: kind }, line === "" ? "\u00a0" : line, "\n");
}));

/** Explains one connection. `heading` stays above it. */
const connection = async (question, heading) => {
  latest += 1;
  const mine = latest;
  for (const name of ["from", "to", "port", "protocol"]) form.elements[name].value = question[name];
  onChoice();
  try {
    const { connections } = await ask("/api/explain", { view, ...question });
    if (mine !== latest) return;
    const parts = connections.flatMap(({ verdict, text, policies }) => [
      h("p", { class: `verdict ${verdict === "allowed" ? "allow" : verdict === "denied" ? "deny" : "depends"}` },
        h("span", { class: "sign", "aria-hidden": "true" }, verdict === "allowed" ? "✓" : verdict === "denied" ? "✕" : "?"), ` ${verdict}`),
      lines(text),
      policies.length === 0 ? null : h("ul", { class: "named", "aria-label": "Policies" }, ...policies.map(policyButton)),
    ]);
    result.replaceChildren(...[heading, ...parts].filter(Boolean));
    announce(connections.map(({ text }) => text.split("\n")[0]).join("; "));
  } catch (error) {
    if (mine === latest) result.replaceChildren(...[heading, h("p", { class: "error", role: "alert" }, error.message)].filter(Boolean));
  }
};

/** Explains the pair of two rows: on this port, else on one that changes, else on the first; the others are buttons. */
export const pair = (from, to, { verdicts }, port) => {
  const other = to.members.find((name) => name !== from.members[0]) ?? to.members[0];
  const question = (verdict) => ({
    from: from.members[0], to: other, protocol: verdict.protocol ?? "TCP",
    port: port !== "" && concerns(verdict, port) ? port.split("/")[0] : String(verdict.protocol === null ? 80 : verdict.first),
  });
  if (verdicts.length === 0) {
    latest += 1;
    onChoice();
    result.replaceChildren(h("p", { class: "hint" }, from.namespace === null ? "Connections between addresses outside the cluster are none of its policies' concern." : `${from.label} is one pod: there is no connection to explain.`));
    return;
  }
  const start = (verdict) => {
    const buttons = verdicts.map((each) => {
      const state = STATES[verdictState(each)];
      const change = each.change ? ` ${CHANGES[each.change].sign}` : "";
      return h("button", { type: "button", class: `chip ${verdictState(each)}`, "aria-pressed": String(each === verdict), onclick: () => start(each),
        title: state.words }, `${state.sign} ${portInWords(each)}${change}`, h("span", { class: "unseen" }, ` ${state.words}`));
    });
    const heading = h("div", {}, h("h2", {}, from.label, h("span", { class: "arrow" }, " → "), to.label), h("div", { class: "chips", role: "group", "aria-label": "Ports" }, ...buttons));
    connection(question(verdict), heading);
  };
  const ofPort = port === "" ? undefined : verdicts.find((verdict) => concerns(verdict, port));
  start(ofPort ?? verdicts.find((verdict) => verdict.change) ?? verdicts[0]);
};

/** Explains a connection by the names of its ends. */
export const named = (question) => connection(question, h("h2", {}, question.from, h("span", { class: "arrow" }, " → "), question.to));

/** Lists the pairs of a cell of namespaces. */
export const many = (from, to, { words }, pairs) => {
  latest += 1;
  onChoice();
  const order = ["some", "audit", "ipv4", "ipv6", "depends", "allow", "deny"];
  const rank = ({ cell }) => (cell.change ? -10 : 0) + order.indexOf(cell.state);
  const sorted = [...pairs].sort((a, b) => rank(a) - rank(b));
  const items = sorted.slice(0, MAX_PAIRS).map(({ cell, title, choose }) => h("li", {},
    h("button", { type: "button", class: "pair", onclick: choose },
      h("span", { class: `cell ${cell.state}`, "aria-hidden": "true" }, STATES[cell.state].sign),
      h("span", { class: "name" }, title), h("span", { class: "unseen" }, ` ${STATES[cell.state].words}`),
      cell.change ? h("span", { class: `tag ${cell.change}` }, `${CHANGES[cell.change].sign} ${CHANGES[cell.change].words}`) : null,
      h("span", { class: "muted" }, cell.ports === "" ? "" : ` ${cell.ports}`))));
  const rest = sorted.length - items.length;
  result.replaceChildren(h("h2", {}, from, h("span", { class: "arrow" }, " → "), to), h("p", {}, words),
    h("ul", { class: "pairs" }, ...items), ...(rest > 0 ? [h("p", { class: "hint" }, `and ${rest} more: unfold the namespaces in the matrix`)] : []));
  announce(`${from} to ${to}: ${words}`);
};
