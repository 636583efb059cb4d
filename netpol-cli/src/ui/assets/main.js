// The page: loads the overview, and passes what is chosen in one part to the others.

import { ofPatterns } from "./cells.js";
import * as drops from "./drops.js";
import { announce, byId, get, h, post, tabs } from "./dom.js";
import * as explain from "./explain.js";
import * as graph from "./graph.js";
import * as matrix from "./matrix.js";
import * as policies from "./policies.js";

let base = null; // The objects as they are.
let shown = null; // The same, or what an edited policy makes of them.
let whole = []; // The cell of each pattern on all ports.

const chooseView = tabs(byId("views"), (id) => {
  if (id === "graph" && shown) graph.show(shown, { onPair, onMany });
  if (id === "drops") drops.start();
});
const chooseDetail = tabs(byId("details"));

const onPair = (from, to, port = "") => {
  explain.pair(shown.rows[from], shown.rows[to], whole[shown.cells[from][to]], port);
};

/** Lists the pairs between two sets of rows, with their cells. */
const onMany = (fromTitle, toTitle, cell, sources, destinations, cellOf = (from, to) => whole[shown.cells[from][to]], port = "") => {
  const pairs = [];
  for (const from of sources) {
    for (const to of destinations) {
      const found = cellOf(from, to);
      if (!found.isPair) continue;
      pairs.push({ cell: found, title: `${shown.rows[from].label} → ${shown.rows[to].label}`, choose: () => onPair(from, to, port) });
    }
  }
  explain.many(fromTitle, toTitle, cell, pairs);
};

const counted = (n, noun, plural = `${noun}s`) => `${n} ${n === 1 ? noun : plural}`;

/** Shows an overview in all parts. */
const show = (overview) => {
  shown = overview;
  for (const row of overview.rows) row.label = row.namespace === null ? row.name : `${row.namespace}/${row.name}${row.n_pods > 1 ? ` ×${row.n_pods}` : ""}`;
  whole = ofPatterns(overview.patterns, "");
  explain.setView(overview.view);
  matrix.show(overview, { onPair, onMany });
  if (!byId("graph").hidden) graph.show(overview, { onPair, onMany });
};

const showProblems = ({ problems }) => {
  const details = byId("problems");
  details.hidden = problems.length === 0;
  details.querySelector("summary").textContent = counted(problems.length, "note");
  details.querySelector("ul").replaceChildren(...problems.map((text) => h("li", {}, text)));
};

const load = async (path) => {
  byId("reload").disabled = true;
  try {
    base = await get(path);
    document.title = `netpol · ${base.source}`;
    byId("source").textContent = base.source;
    byId("counts").textContent = [counted(base.n_pods, "pod"), counted(base.rows.filter((row) => row.namespace !== null).length, "workload"), counted(base.n_namespaces, "namespace"),
      counted(base.policies.length, "policy", "policies")].join(" · ");
    byId("tab-drops").hidden = !base.is_live;
    showProblems(base);
    byId("what-if").hidden = true;
    policies.show(base);
    show(base);
    // After the next frame, for whoever measures.
    requestAnimationFrame(() => setTimeout(() => performance.mark("shown")));
    announce(`${byId("counts").textContent} shown`);
  } catch (error) {
    const banner = byId("what-if");
    banner.className = "error";
    banner.hidden = false;
    banner.replaceChildren(h("strong", {}, "Nothing can be loaded: "), error.message);
  } finally {
    byId("reload").disabled = false;
  }
};

/** Leaves the edited policy out again. */
const endWhatIf = () => {
  byId("what-if").hidden = true;
  if (shown !== base) show(base);
};

const banner = ({ n_opened: nOpened, n_closed: nClosed, text }, title) => {
  const element = byId("what-if");
  element.className = "";
  element.hidden = false;
  const lines = text.trimEnd().split("\n");
  const summary = nOpened + nClosed === 0 ? "no connection changes" : `opens ${counted(nOpened, "pair")} of pods, closes ${counted(nClosed, "pair")}`;
  element.replaceChildren(h("strong", {}, "What if: "), `${title} `, h("span", { class: "tag opens" }, `+ ${nOpened}`), h("span", { class: "tag closes" }, `− ${nClosed}`),
    h("span", { class: "unseen" }, summary),
    ...(nOpened + nClosed === 0 ? [h("span", { class: "muted" }, " no connection changes")] : [h("details", {}, h("summary", {}, "What changes"), h("pre", {}, ...lines.map((line) =>
      h("span", { class: line.startsWith("+") ? "opens" : line.startsWith("-") ? "closes" : "" }, `${line}\n`))))]),
    h("button", { type: "button", onclick: () => { endWhatIf(); policies.forget(); } }, "Back to what is in force"));
  announce(`What if: ${title}: ${summary}`);
};

explain.setUp({
  onPolicy: (name, rule) => { chooseDetail("policies"); policies.open(name, rule); },
  onChoice: () => chooseDetail("explain"),
});
policies.setUp({
  whatIf: async (question, title) => {
    const answer = await post("/api/what-if", question);
    if (answer.overview) {
      show(answer.overview);
      banner(answer.overview.changes, title);
    } else {
      endWhatIf();
    }
    return answer;
  },
  endWhatIf,
});
drops.setUp({ onDrop: explain.named });
byId("reload").addEventListener("click", () => load("/api/overview?again"));
chooseView("matrix");
load("/api/overview");
