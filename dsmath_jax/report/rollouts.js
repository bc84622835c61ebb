"use strict";
// The rollouts of a run. Texts of the run enter the document as text nodes, and formulas as elements created from trees of
// known MathML; nothing is parsed as markup. Only what is near the visible part of the page is drawn.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const GROUPS_AT_A_TIME = 8;
const QUANTILE = 0.98; // of the advantages' sizes; larger ones have the full color

const form = document.getElementById("filters");
const list = document.getElementById("groups");
const end = document.getElementById("end");
const groups = []; // {step, prompt, rows}, in the order of the file
let scale = 1; // the advantage that has the full color
let shown = []; // [group, its matching rows] of the filters
let drawn = 0; // how many of `shown` are in the document

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const count = (value, word) => `${value.toLocaleString("en")} ${word}${value === 1 ? "" : "s"}`;

// Formats a number with three significant digits and a real minus sign.
function decimal(value, sign = false) {
  if (value === null) return "none";
  const text = String(Number(value.toPrecision(3))).replace("-", "−");
  return sign && value > 0 ? "+" + text : text;
}

// --- data ---

async function readBlock(script) {
  const bytes = Uint8Array.from(atob(script.textContent), (character) => character.charCodeAt(0));
  script.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

function addBlock({ rows, formulas }) {
  for (const row of rows) {
    row.formulas = formulas;
    let group = groups.at(-1);
    if (!group || group.step !== row.step || group.prompt !== row.prompt) {
      group = { step: row.step, prompt: row.prompt, rows: [] };
      groups.push(group);
    }
    row.sample ??= group.rows.length;
    group.rows.push(row);
  }
}

// Returns a quantile of the sizes of all tokens' advantages, 0 without any.
function fullColor() {
  const sizes = [];
  for (const group of groups) {
    for (const row of group.rows) {
      for (const [tokens, advantage] of row.advantages) if (advantage) sizes.push([Math.abs(advantage), tokens]);
    }
  }
  sizes.sort(([one], [other]) => one - other);
  let left = QUANTILE * sizes.reduce((sum, [, tokens]) => sum + tokens, 0);
  return sizes.find(([, tokens]) => (left -= tokens) <= 0)?.[0] ?? 0;
}

// --- filters ---

function readFilters() {
  const values = Object.fromEntries(new FormData(form));
  const number = (name, missing) => (values[name] === "" ? missing : Number(values[name]));
  const pattern = (text) => new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu");
  return {
    ...values,
    steps: [number("step_from", -Infinity), number("step_to", Infinity)],
    rewards: values.reward_from || values.reward_to
      ? [number("reward_from", -Infinity), number("reward_to", Infinity)] : null,
    idPattern: values.id ? pattern(values.id) : null,
    textPattern: values.text ? pattern(values.text) : null,
  };
}

function matches(row, { rewards, finish, idPattern, textPattern }) {
  return (!rewards || (row.reward !== null && row.reward >= rewards[0] && row.reward <= rewards[1]))
    && (!finish || row.finish === finish)
    && (!idPattern || idPattern.test(row.id))
    && (!textPattern || [row.question[0], row.answer, row.completion[0]].some((text) => textPattern.test(text)));
}

function ordered(rows, order) {
  if (order === "sample") return rows;
  const sign = order === "best" ? -1 : 1;
  const key = (row) => (row.reward === null ? Infinity : sign * row.reward);
  return [...rows].sort((one, other) => (key(one) < key(other) ? -1 : key(one) > key(other) ? 1 : 0));
}

function applyFilters() {
  const filters = readFilters();
  const differ = ({ rows }) => new Set(rows.map((row) => row.reward)).size > 1;
  shown = groups
    .filter((group) => group.step >= filters.steps[0] && group.step <= filters.steps[1])
    .filter((group) => !filters.differing || differ(group))
    .map((group) => [group, ordered(group.rows.filter((row) => matches(row, filters)), filters.order)])
    .filter(([, rows]) => rows.length);
  const total = groups.reduce((sum, { rows }) => sum + rows.length, 0);
  const found = shown.reduce((sum, [, rows]) => sum + rows.length, 0);
  const all = found === total ? "" : ` of ${total.toLocaleString("en")}`;
  document.getElementById("about").textContent =
    `${found.toLocaleString("en")}${all} ${total === 1 ? "completion" : "completions"}, ${count(shown.length, "prompt")}`;
  bodies.disconnect();
  list.replaceChildren();
  drawn = 0;
  drawMore();
}

// --- drawing ---

function mathml([tag, attributes, ...children]) {
  const node = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => (typeof child === "string" ? child : mathml(child))));
  return node;
}

function formula(tree, source) {
  if (!tree) return element("code", { title: "This formula cannot be rendered." }, source);
  const display = tree[1].display === "block" ? "display" : "inline";
  return element("span", { className: "formula " + display, title: source }, mathml(tree));
}

// Returns a function (start, end) -> nodes of that part of a text. Parts are asked for in their order; a formula is in the
// part in which it begins.
function parts([text, places], trees, asSource) {
  const characters = Array.from(text); // offsets count code points
  const slice = (start, stop) => characters.slice(start, stop).join("");
  const left = asSource ? [] : [...places];
  let at = 0;
  return {
    length: characters.length,
    nodes(start, stop) {
      const nodes = [];
      at = Math.max(at, start);
      while (at < stop) {
        const [from, to, index] = left[0]?.[0] < stop ? left.shift() : [stop, stop, -1];
        if (from > at) nodes.push(slice(at, from));
        at = to;
        if (index < 0) continue;
        while (at < stop && ".,;:!?)".includes(characters[at])) at++; // stays on the line of the formula
        nodes.push(element("span", { className: "nobreak" }, formula(trees[index], slice(from, to)), slice(to, at)));
      }
      return nodes;
    },
  };
}

function wholeText(text, trees) {
  const { length, nodes } = parts(text, trees, false);
  return nodes(0, length);
}

// Returns runs of tokens with equal advantages, or single tokens: {first, last, start, stop, advantage}; tokens from 1,
// characters from 0. [] where the characters of the tokens are unknown.
function runsOf(row, length, single) {
  const lengths = row.token_lengths;
  if (!lengths.length) {
    const whole = row.advantages.length === 1;
    return whole ? [{ first: 1, last: row.num_tokens, start: 0, stop: length, advantage: row.advantages[0][1] }] : [];
  }
  const runs = [];
  let token = 0;
  let start = length - lengths.reduce((sum, size) => sum + size, 0); // a prompt may have begun the text
  for (const [tokens, advantage] of row.advantages) {
    for (let rest = tokens; rest > 0; rest -= single ? 1 : tokens) {
      const size = single ? 1 : tokens;
      let stop = start;
      for (let each = token; each < token + size; each++) stop += lengths[each];
      runs.push({ first: token + 1, last: token + size, start, stop, advantage });
      [token, start] = [token + size, stop];
    }
  }
  return runs;
}

function colored(run, nodes) {
  const { first, last, advantage } = run;
  const kind = advantage === null ? "masked" : advantage > 0 ? "positive" : advantage < 0 ? "negative" : "zero";
  const which = first === last ? `token ${first}` : `tokens ${first} to ${last}`;
  const what = advantage === null ? "no loss" : `advantage ${decimal(advantage, true)}`;
  const node = element("span", { className: "run " + kind, title: `${which}: ${what}` }, ...nodes);
  node.style.setProperty("--strength", Math.min(1, Math.abs(advantage ?? 0) / scale));
  return node;
}

function drawBody(body, row) {
  const asTokens = form.elements.tokens.checked;
  const text = parts(row.completion, row.formulas, asTokens);
  const nodes = [];
  let at = 0;
  for (const run of runsOf(row, text.length, asTokens)) {
    nodes.push(...text.nodes(at, run.start));
    const inside = text.nodes(run.start, run.stop);
    at = Math.max(at, run.stop);
    const ends = row.finish === "eos" && run.last === row.num_tokens;
    if (ends) inside.push(element("span", { className: "eos" }, "end"));
    else if (asTokens && run.start === run.stop) inside.push("·"); // a token within a character
    if (inside.length) nodes.push(colored(run, inside));
  }
  nodes.push(...text.nodes(at, text.length));
  body.classList.toggle("tokens", asTokens);
  body.replaceChildren(...(nodes.length ? nodes : [element("span", { className: "soft" }, "(empty)")]));
}

function facts(row) {
  const found = [];
  const add = (text, className = "") => found.push(element("span", { className }, text));
  const labels = { eos: "ended", length: "cut at the length limit", rounds: "cut after its last turn", stop: "stop string" };
  if (row.finish) add(labels[row.finish] ?? row.finish, ["length", "rounds"].includes(row.finish) ? "cut" : "");
  if (row.num_tokens !== null) add(count(row.num_tokens, "token"));
  const values = row.advantages.map(([, advantage]) => advantage).filter((advantage) => advantage !== null);
  if (values.length) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    add(`advantage ${decimal(low, true)}${low === high ? "" : " to " + decimal(high, true)}`);
  } else if (row.advantages.length) add("no loss");
  if (row.rule_reward !== null && row.rule_reward !== row.reward) add(`rule reward ${decimal(row.rule_reward)}`);
  const functions = Object.entries(row.rewards);
  if (functions.length > 1) for (const [name, value] of functions) add(`${name} ${decimal(value)}`);
  if (row.step_rewards.length) add(`step rewards ${row.step_rewards.map((reward) => decimal(reward)).join(", ")}`);
  return element("p", { className: "facts" }, ...found);
}

// Draws the texts of completions when they come near the visible part of the page and of their group.
const bodies = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries.filter((entry) => entry.isIntersecting)) {
      bodies.unobserve(target);
      drawBody(target, target.row);
    }
  },
  { rootMargin: "400px", scrollMargin: "400px" },
);

function card(row) {
  const name = `Sample ${row.sample}`;
  const body = element("div", { className: "text", row, tabIndex: 0, role: "group", ariaLabel: `${name}, completion` });
  bodies.observe(body);
  const reward = element("span", { className: "reward" }, element("small", {}, "reward "), decimal(row.reward));
  return element("article", {}, element("h3", {}, name, reward), facts(row), body);
}

function drawGroup([group, rows]) {
  const [first] = group.rows;
  const left = group.rows.length - rows.length;
  const rewards = group.rows.map((row) => row.reward).filter((reward) => reward !== null);
  const mean = rewards.length ? decimal(rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length) : "none";
  const summary = element(
    "p", { className: "facts" },
    element("span", {}, count(group.rows.length, "completion") + (left ? `, ${rows.length.toLocaleString("en")} shown` : "")),
    element("span", {}, `mean reward ${mean}`),
  );
  const samples = element("div", { className: "samples" }, ...rows.map(card));
  if (left) {
    const button = element("button", { type: "button" }, `Show the other ${left.toLocaleString("en")}`);
    button.addEventListener("click", () => {
      samples.replaceChildren(...ordered(group.rows, form.elements.order.value).map(card));
      summary.firstChild.textContent = count(group.rows.length, "completion");
      button.remove();
    });
    summary.append(button);
  }
  return element(
    "section", { className: "group" },
    element("h2", {}, `Step ${group.step}, prompt ${group.prompt}`, element("span", { className: "id" }, first.id)),
    element("div", { className: "question text" }, ...wholeText(first.question, first.formulas)),
    ...(first.answer ? [element("p", { className: "answer" }, element("b", {}, "Answer "), first.answer)] : []),
    summary,
    samples,
  );
}

function drawMore() {
  list.append(...shown.slice(drawn, drawn + GROUPS_AT_A_TIME).map(drawGroup));
  drawn = Math.min(shown.length, drawn + GROUPS_AT_A_TIME);
  const left = shown.length - drawn;
  end.textContent = left ? `${count(left, "more prompt")} below …` : shown.length ? "" : "No completion matches the filters.";
  more.unobserve(end);
  if (left) more.observe(end); // calls again while the end is near
}

const more = new IntersectionObserver(
  (entries) => {
    if (entries.some((entry) => entry.isIntersecting)) drawMore();
  },
  { rootMargin: "1500px" },
);

// --- start ---

let waiting = 0;

function filtersChanged() {
  const set = [...new FormData(form)].filter(([name, value]) => value !== "" && !(name === "order" && value === "sample"));
  history.replaceState(null, "", "#" + new URLSearchParams(set));
  applyFilters();
}

form.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filtersChanged, 200);
});
form.addEventListener("reset", () => setTimeout(filtersChanged));
form.addEventListener("submit", (event) => event.preventDefault());

async function start() {
  const scripts = [...document.querySelectorAll("script.rows")];
  for (const [index, script] of scripts.entries()) {
    addBlock(await readBlock(script));
    document.getElementById("about").textContent = `Reading the rollouts: ${index + 1} of ${scripts.length} parts …`;
  }
  const rows = groups.flatMap((group) => group.rows);
  for (const finish of [...new Set(rows.map((row) => row.finish))].filter(Boolean).sort()) {
    form.elements.finish.append(element("option", { value: finish }, finish));
  }
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const field = form.elements[name];
    if (field?.type === "checkbox") field.checked = true;
    else if (field) field.value = value;
  }
  scale = fullColor() || 1;
  document.getElementById("legend").hidden = !rows.some((row) => row.advantages.length);
  document.getElementById("low").textContent = decimal(-scale);
  document.getElementById("high").textContent = decimal(scale, true);
  applyFilters();
}

start().catch((error) => {
  document.getElementById("about").textContent = `The rollouts cannot be shown: ${error.message}`;
  throw error;
});
