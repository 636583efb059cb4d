// The graph: namespaces on a circle, and the workloads of those that are unfolded. An arrow is a verdict; it is full for all
// connections, dashed for some. The connections of the chosen node stand out, and stand as a list beside the picture.

import { CHANGES, STATES, ofMany, ofPatterns } from "./cells.js";
import { announce, byId, h, s } from "./dom.js";

const OUTSIDE = "outside"; // The group of addresses.
const MARGINS = [150, 56]; // Beside and above the circle, for names, pixels.
const MAX_FAINT = 150; // Arrows that are drawn while nothing is chosen.

const panel = byId("graph");
let data = null;
let callbacks = {};
let cells = [];
let unfolded = new Set();
let nodes = [];
let chosen = null; // Key of a node.
let centre = [0, 0]; // Of the picture, pixels.

const picture = s("svg", { role: "group", "aria-label": "Graph of namespaces and workloads" });
const side = h("div", { class: "neighbours", "aria-live": "polite" });
panel.append(h("p", { class: "muted" }, "Choose a namespace to see whom it reaches; Enter again, or a double click, unfolds it. Dashed arrows: some connections only."),
  h("div", { class: "picture" }, picture, side));

new ResizeObserver(() => { if (data && picture.clientWidth > 0) draw(); }).observe(picture);

/** Shows an overview. */
export const show = (overview, given) => {
  const isOther = data !== overview;
  [data, callbacks] = [overview, given];
  cells = ofPatterns(data.patterns, "");
  if (isOther && !nodes.some(({ key }) => key === chosen)) chosen = null;
  draw();
};

const namespaceOf = (row) => row.namespace ?? OUTSIDE;

/** The nodes in the order of the circle, each with its position. */
const place = () => {
  centre = [picture.clientWidth / 2, picture.clientHeight / 2];
  const radii = centre.map((half, at) => Math.max(60, half - MARGINS[at]));
  const groups = new Map();
  data.rows.forEach((row, at) => {
    const name = namespaceOf(row);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(at);
  });
  const found = [...groups].flatMap(([name, members]) => unfolded.has(name)
    ? members.map((at) => ({ key: `row ${at}`, name: data.rows[at].name, title: data.rows[at].label, group: name, members: [at] }))
    : [{ key: `namespace ${name}`, name, title: name, group: name, members, isGroup: true }]);
  found.forEach((node, at) => {
    const angle = (at / found.length) * 2 * Math.PI - Math.PI / 2;
    Object.assign(node, { angle, x: centre[0] + radii[0] * Math.cos(angle), y: centre[1] + radii[1] * Math.sin(angle) });
  });
  return found;
};

/** The cell of two nodes. */
const between = (from, to) => {
  const pairs = function* () {
    for (const source of from.members) for (const destination of to.members) yield cells[data.cells[source][destination]];
  };
  return ofMany(pairs());
};

const arrow = (from, to, cell, kind) => {
  // A curve towards the centre; the two directions of a pair take different sides.
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy) || 1;
  const bend = 0.55;
  const middle = [(from.x + to.x) / 2, (from.y + to.y) / 2];
  const control = [middle[0] + (centre[0] - middle[0]) * bend - (dy / length) * 18, middle[1] + (centre[1] - middle[1]) * bend + (dx / length) * 18];
  const near = (a, b, gap) => {
    const distance = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
    return [a[0] + ((b[0] - a[0]) / distance) * gap, a[1] + ((b[1] - a[1]) / distance) * gap];
  };
  const start = near([from.x, from.y], control, 13);
  const end = near([to.x, to.y], control, 16);
  const round = (value) => Math.round(value * 10) / 10;
  const path = `M${round(start[0])} ${round(start[1])}Q${round(control[0])} ${round(control[1])} ${round(end[0])} ${round(end[1])}`;
  const heading = Math.atan2(end[1] - control[1], end[0] - control[0]);
  const tip = [0, 2.6, -2.6].map((turn) => [round(end[0] + 8 * Math.cos(heading + turn)), round(end[1] + 8 * Math.sin(heading + turn))].join(","));
  return s("g", { class: `arrow ${cell.state} ${cell.change ?? ""} ${kind}` }, s("path", { d: path }), s("polygon", { points: tip.join(" ") }));
};

const label = (node) => {
  const right = Math.cos(node.angle) >= -0.001;
  const vertical = Math.abs(Math.cos(node.angle)) < 0.2;
  const anchor = vertical ? "middle" : right ? "start" : "end";
  const [x, y] = vertical ? [node.x, node.y + (node.y > centre[1] ? 27 : -18)] : [node.x + (right ? 17 : -17), node.y + 4];
  const text = node.name.length > 18 ? `${node.name.slice(0, 17)}…` : node.name;
  return s("text", { x, y, "text-anchor": anchor }, text, node.isGroup ? s("tspan", { class: "count", dx: 5 }, node.members.length) : null);
};

const draw = () => {
  nodes = place();
  const edges = [];
  for (const from of nodes) {
    for (const to of nodes) {
      if (from === to) continue;
      const cell = between(from, to);
      if (cell.isPair && (cell.isOpen || cell.change)) edges.push({ from, to, cell });
    }
  }
  const isChosen = ({ from, to }) => from.key === chosen || to.key === chosen;
  const changed = edges.filter(({ cell }) => cell.change);
  const faint = chosen === null && changed.length === 0 && edges.length <= MAX_FAINT ? edges : chosen === null ? [] : edges.filter((edge) => !isChosen(edge)).slice(0, MAX_FAINT);
  const strong = chosen === null ? changed : edges.filter(isChosen);
  const arrows = [...faint.map((edge) => [edge, chosen === null ? "plain" : "faint"]), ...strong.map((edge) => [edge, edge.from.key === chosen ? "out" : "in"])];
  const focused = document.activeElement?.dataset?.key;
  picture.replaceChildren(...arrows.map(([{ from, to, cell }, kind]) => arrow(from, to, cell, kind)), ...nodes.map(circle));
  list(edges);
  if (focused !== undefined) [...picture.querySelectorAll("[data-key]")].find((node) => node.dataset.key === focused)?.focus();
};

const circle = (node) => {
  const inside = between(node, node);
  const shape = node.isGroup ? s("rect", { x: node.x - 10, y: node.y - 10, width: 20, height: 20, rx: 5 }) : s("circle", { cx: node.x, cy: node.y, r: 8 });
  return s("g", {
    class: `node${node.isGroup ? " group" : ""}${node.key === chosen ? " chosen" : ""}`, tabindex: 0, role: "button", "data-key": node.key, "aria-pressed": String(node.key === chosen),
    "aria-label": node.isGroup ? `namespace ${node.name}, ${node.members.length} workloads` : node.title,
    onclick: () => choose(node), ondblclick: () => unfold(node),
    onkeydown: (event) => {
      if (event.key === "Enter" && node.key === chosen) unfold(node);
      else if (event.key === "Enter" || event.key === " ") choose(node);
      else if (event.key === "Escape") { chosen = null; draw(); }
      else return;
      event.preventDefault();
    },
  }, s("title", {}, `${node.title}: within it ${inside.words}`), shape, label(node));
};

const choose = (node) => {
  chosen = node.key;
  draw();
  const [outgoing, incoming] = [nodes.filter((to) => to !== node && between(node, to).isOpen).length, nodes.filter((from) => from !== node && between(from, node).isOpen).length];
  announce(`${node.title} reaches ${outgoing} and is reached by ${incoming}`);
};

/** Unfolds a namespace, or folds that of a workload. */
const unfold = (node) => {
  if (node.isGroup) unfolded.add(node.group);
  else unfolded.delete(node.group);
  chosen = node.isGroup ? `row ${node.members[0]}` : `namespace ${node.group}`;
  draw();
  [...picture.querySelectorAll("[data-key]")].find((other) => other.dataset.key === chosen)?.focus();
  announce(`${node.group} ${node.isGroup ? "unfolded" : "folded"}`);
};

/** The connections of the chosen node, or a summary, as text. */
const list = (edges) => {
  const node = nodes.find(({ key }) => key === chosen);
  if (!node) {
    const changed = edges.filter(({ cell }) => cell.change);
    side.replaceChildren(h("p", { class: "hint" }, changed.length > 0 ? `${changed.length} arrows change.` : edges.length > MAX_FAINT ? `${edges.length} arrows: those of the chosen node are drawn.` : `${edges.length} arrows.`));
    return;
  }
  const item = (from, to, cell, name) => h("li", {}, h("button", { type: "button", class: "pair", onclick: () => explainPair(from, to, cell) },
    h("span", { class: `cell ${cell.state}`, "aria-hidden": "true" }, STATES[cell.state].sign), h("span", { class: "name" }, name), h("span", { class: "unseen" }, ` ${cell.words}`),
    cell.change ? h("span", { class: `tag ${cell.change}` }, `${CHANGES[cell.change].sign} ${CHANGES[cell.change].words}`) : null,
    cell.ports === "" ? null : h("span", { class: "muted" }, ` ${cell.ports}`)));
  const part = (title, found) => [h("h3", {}, `${title} `, h("span", { class: "count" }, found.length)), found.length === 0 ? h("p", { class: "hint" }, "nobody") : h("ul", { class: "pairs" }, ...found)];
  side.replaceChildren(h("h2", {}, node.title),
    h("button", { type: "button", onclick: () => unfold(node) }, node.isGroup ? "Unfold" : `Fold ${node.group}`),
    ...part("reaches", edges.filter(({ from }) => from === node).map(({ to, cell }) => item(node, to, cell, to.title))),
    ...part("is reached by", edges.filter(({ to }) => to === node).map(({ from, cell }) => item(from, node, cell, from.title))));
};

const explainPair = (from, to, cell) => {
  if (from.isGroup || to.isGroup || from.members.length > 1 || to.members.length > 1) callbacks.onMany(from.title, to.title, cell, from.members, to.members);
  else callbacks.onPair(from.members[0], to.members[0]);
};
