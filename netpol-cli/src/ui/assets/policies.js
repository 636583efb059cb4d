// The policies: their list by tier, and an editor that shows findings beside their lines and asks what an edited policy would change.
// Nothing is applied: the result is a file to download.

import { announce, ask, byId, h } from "./dom.js";

const PAUSE = 400; // After the last key, until the question is asked, milliseconds.
const TIERS = { Admin: "Admin tier: asked first", NetworkPolicy: "NetworkPolicies", Baseline: "Baseline tier: asked last" };
const TEMPLATE = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: new
  namespace: NAMESPACE
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {}
`;

const panel = byId("policies");
let callbacks = {};
let overview = null;
let opened = null; // { name, text, title }; the name is null for a new policy.
let timer = 0;
let latest = 0;

const filter = h("input", { type: "search", placeholder: "all", autocomplete: "off", spellcheck: "false" });
const list = h("div", { class: "list" });
const chooser = h("div", {}, h("div", { class: "line" }, h("label", {}, "Name ", filter),
  h("button", { type: "button", onclick: () => create() }, "New policy")), list);

const gutter = h("div", { class: "gutter", "aria-hidden": "true" });
const text = h("textarea", { spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off", "aria-label": "YAML of the policy", "aria-describedby": "findings" });
const status = h("p", { class: "muted", role: "status" });
const findings = h("ul", { id: "findings", class: "findings", "aria-label": "Findings" });
const heading = h("h2", {});
const place = h("p", { class: "muted" });
const deletion = h("button", { type: "button", "aria-pressed": "false", onclick: () => remove() }, "What if deleted");
const editor = h("div", { hidden: true },
  h("div", { class: "line" }, h("button", { type: "button", onclick: () => close() }, "← All policies")),
  heading, place, h("div", { class: "editor" }, gutter, text),
  h("div", { class: "line" },
    h("button", { type: "button", class: "primary", onclick: () => download() }, "Download YAML"),
    deletion, h("button", { type: "button", onclick: () => reset() }, "Reset")),
  status, findings);
panel.append(chooser, editor);

/** Sets whom to ask what an edited policy changes. */
export const setUp = (given) => { callbacks = given; };

const titleOf = ({ kind, namespace, name }) => kind === "NetworkPolicy" ? `${namespace}/${name}` : name;

const draw = () => {
  const wanted = filter.value.trim().toLowerCase();
  const parts = Object.entries(TIERS).flatMap(([tier, words]) => {
    const found = overview.policies.filter((policy) => policy.tier === tier && titleOf(policy).toLowerCase().includes(wanted));
    if (found.length === 0) return [];
    return [h("h3", {}, `${words} `, h("span", { class: "count" }, found.length)), h("ul", {}, ...found.map((policy) => h("li", {},
      h("button", { type: "button", class: "policy", onclick: () => open(policy) }, titleOf(policy)),
      h("span", { class: "muted" }, ` ${policy.directions.join(", ")}${policy.priority === null ? "" : ` · priority ${policy.priority}`}`),
      policy.is_audited ? h("span", { class: "tag audit" }, "A audit") : null)))];
  });
  list.replaceChildren(...(parts.length === 0 ? [h("p", { class: "hint" }, overview.policies.length === 0 ? "There is no policy: every connection is allowed." : "Nothing matches.")] : parts));
};
filter.addEventListener("input", draw);

/** Shows the policies of an overview. */
export const show = (given) => {
  overview = given;
  close();
  draw();
};

/** Closes the editor. */
const close = () => {
  clearTimeout(timer);
  latest += 1;
  opened = null;
  editor.hidden = true;
  chooser.hidden = false;
  callbacks.endWhatIf();
};

/** The edited text is as it was, because the page has gone back. */
export const forget = () => {
  if (opened) edit(opened.text);
};

const edit = (value) => {
  clearTimeout(timer);
  latest += 1;
  text.value = value;
  deletion.setAttribute("aria-pressed", "false");
  text.disabled = false;
  report(value === opened.text ? opened.findings : []);
};

const begin = (name, title, value, where, found = []) => {
  opened = { name, title, text: value, findings: found };
  heading.textContent = title;
  place.textContent = where;
  deletion.hidden = name === null;
  chooser.hidden = true;
  editor.hidden = false;
  edit(value);
  status.textContent = "Edit the text to see what would change. Nothing is applied.";
};

/** Opens a policy, at a rule such as `ingress[0]`. */
export const open = async ({ kind, namespace, name }, rule = null) => {
  callbacks.endWhatIf();
  try {
    const found = await ask("/api/policy", { kind, namespace, name });
    begin({ kind, namespace, name }, titleOf({ kind, namespace, name }), found.text, found.place ?? "in the cluster", found.findings);
    const line = found.rules.find(([of]) => of === rule)?.[1];
    goTo(line ?? 1, line !== undefined);
    text.focus({ preventScroll: true });
    announce(line === undefined ? `${titleOf({ kind, namespace, name })} opened` : `${rule} is in line ${line}`);
  } catch (error) {
    begin(null, titleOf({ kind, namespace, name }), "", "");
    status.textContent = error.message;
  }
};

const create = () => {
  const namespace = overview.rows.find((row) => row.namespace !== null)?.namespace ?? "default";
  begin(null, "New policy", "", "");
  text.value = TEMPLATE.replace("NAMESPACE", namespace);
  number([]);
  text.focus();
  question();
};

const lineHeight = () => parseFloat(getComputedStyle(text).lineHeight);

/** Numbers the lines, with a mark at those with findings. */
const number = (found, chosen = 0) => {
  const n = text.value.split("\n").length;
  const worst = new Map();
  for (const { line, level } of found) if (worst.get(line) !== "error") worst.set(line, level);
  gutter.replaceChildren(...Array.from({ length: n }, (_, at) => {
    const level = worst.get(at + 1);
    const mark = level === "error" ? "✕" : level === "warning" ? "!" : level === "info" ? "i" : at + 1 === chosen ? "▸" : "";
    return h("div", { class: `${level ?? ""}${at + 1 === chosen ? " chosen" : ""}` }, h("span", {}, mark), String(at + 1));
  }));
  gutter.scrollTop = text.scrollTop;
};
text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; }, { passive: true });

/** Puts the caret at a line, and shows it. */
const goTo = (line, isMarked) => {
  const lines = text.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
  text.setSelectionRange(start, isMarked ? start + lines[line - 1].length : start);
  text.scrollTop = Math.max(0, (line - 4) * lineHeight());
  if (isMarked) number(opened.findings, line);
};

const report = (found) => {
  number(found);
  findings.replaceChildren(...found.map(({ line, level, code, name, message, advice }) => h("li", { class: level },
    h("button", { type: "button", class: "finding", onclick: () => { goTo(Math.max(1, line), true); text.focus(); number(found, line); } },
      h("span", { class: "code" }, `${level} ${code}${line > 0 ? `, line ${line}` : ""}`)),
    ` ${name ? `${name}: ` : ""}${message}`, advice ? h("span", { class: "muted" }, ` ${advice}`) : null)));
};

/** Asks what the text changes. */
const question = async (deleted = null) => {
  clearTimeout(timer);
  latest += 1;
  const mine = latest;
  const isUnchanged = deleted === null && text.value === opened.text;
  if (isUnchanged) {
    callbacks.endWhatIf();
    report(opened.findings);
  }
  status.textContent = "…";
  try {
    const title = `${opened.title}${deleted ? " deleted" : opened.name === null ? "" : " edited"}`;
    const answer = isUnchanged ? null : await callbacks.whatIf({ text: text.value, deleted }, title);
    if (mine !== latest) return;
    status.textContent = answer === null ? "As it is in force." : answer.overview ? "Evaluated. Nothing is applied." : "The text cannot be read.";
    if (answer !== null) report(answer.findings);
  } catch (error) {
    if (mine === latest) status.textContent = error.message;
  }
};

text.addEventListener("input", () => {
  number([]);
  clearTimeout(timer);
  timer = setTimeout(() => question(), PAUSE);
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) question();
});

const remove = () => {
  const isDeleted = deletion.getAttribute("aria-pressed") !== "true";
  deletion.setAttribute("aria-pressed", String(isDeleted));
  text.disabled = isDeleted;
  question(isDeleted ? opened.name : null);
};

const reset = () => {
  edit(opened.text);
  question();
};

const download = () => {
  const url = URL.createObjectURL(new Blob([text.value], { type: "application/yaml" }));
  const name = (opened.name?.name ?? "policy").replace(/[^A-Za-z0-9.-]/g, "-");
  h("a", { href: url, download: `${name}.yaml` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  announce(`${name}.yaml downloaded`);
};
