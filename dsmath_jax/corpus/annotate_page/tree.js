// The path tree of one domain: its visible prefixes, the chosen one, and their marks.

import { element, number, request } from "./samples.js";

const WORDS = new Map([[true, "mathematics"], [false, "not"], [null, "undecided"]]);

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}

export class Tree {
  constructor(container, onChoose, onError) {
    Object.assign(this, { container, onChoose, onError, host: "", roots: [], chosen: null, marks: new Map() });
  }

  // Shows the tree of a domain and chooses its first prefix.
  async open(host, level) {
    Object.assign(this, { host, chosen: null });
    this.roots = this.nodes(null, level);
    if (this.roots.length) await this.expand(this.roots[0]);
    this.choose(this.rows()[0] ?? null);
  }

  nodes(parent, level) {
    const depth = parent ? parent.depth + 1 : 1;
    const base = { parent, depth, open: false, below: null };
    const found = level.rows.map((row) => ({ ...base, ...row }));
    if (level.left) found.push({ ...base, more: level.left, prefix: "", children: 0 });
    return found;
  }

  rows() {
    const visible = (nodes) => nodes.flatMap((node) => [node, ...(node.open ? visible(node.below) : [])]);
    return visible(this.roots);
  }

  // Returns the mark of the longest marked prefix of a prefix.
  decision(prefix) {
    for (let end = prefix.length; end; end--) {
      const mark = this.marks.get(prefix.slice(0, end));
      if (mark) return { math: mark.math, note: mark.note, from: prefix.slice(0, end) };
    }
    return { math: null, note: "", from: "" };
  }

  setMarks(marks) {
    this.marks = new Map(marks.map((mark) => [mark.prefix, mark]));
    this.render();
  }

  async expand(node) {
    if (!node?.children || node.open) return;
    if (!node.below) {
      const level = await request("tree", { host: this.host, prefix: node.prefix });
      node.below = this.nodes(node, level);
    }
    node.open = true;
    if (node.below.length === 1) await this.expand(node.below[0]);
    this.render();
  }

  collapse(node) {
    node.open = false;
    this.render();
  }

  async loadMore(node) {
    const siblings = node.parent ? node.parent.below : this.roots;
    const fields = { host: this.host, prefix: node.parent ? node.parent.prefix : "", offset: siblings.length - 1 };
    const found = this.nodes(node.parent, await request("tree", fields));
    siblings.splice(siblings.length - 1, 1, ...found);
    this.choose(found[0]);
  }

  choose(node) {
    if (node?.more) return this.loadMore(node).catch(this.onError);
    this.chosen = node;
    this.render();
    this.container.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
    return this.onChoose(node);
  }

  move(step) {
    const rows = this.rows();
    const next = rows[rows.indexOf(this.chosen) + step];
    if (next) this.choose(next);
  }

  async right() {
    const node = this.chosen;
    if (node?.open) this.choose(node.below[0]);
    else await this.expand(node);
  }

  left() {
    const node = this.chosen;
    if (node?.open) this.collapse(node);
    else if (node?.parent) this.choose(node.parent);
  }

  // Expands the path to a prefix and chooses it, or the nearest loaded folder above it.
  async reveal(prefix) {
    let [nodes, found] = [this.roots, null];
    while (nodes) {
      const next = nodes.find((node) => !node.more && prefix.startsWith(node.prefix));
      if (!next) break;
      found = next;
      if (next.prefix === prefix) break;
      await this.expand(next);
      nodes = next.below;
    }
    if (found) this.choose(found);
  }

  render() {
    const rows = this.rows();
    this.container.replaceChildren(...rows.map((node, index) => this.row(node, index)));
    const index = rows.indexOf(this.chosen);
    if (index >= 0) this.container.setAttribute("aria-activedescendant", "row-" + index);
    else this.container.removeAttribute("aria-activedescendant");
  }

  row(node, index) {
    const twisty = element("span", { className: "twisty", ariaHidden: "true" });
    const row = element("div", { id: "row-" + index, className: "row", role: "treeitem", ariaLevel: node.depth });
    row.ariaSelected = String(node === this.chosen);
    twisty.style.marginLeft = `${(Math.min(node.depth, 12) - 1) * 0.8}rem`;
    row.addEventListener("click", () => this.choose(node));
    if (node.more) {
      row.classList.add("more");
      const label = element("span", { className: "label" }, `${number(node.more)} more …`);
      row.append(element("span", { className: "name" }, twisty, label));
      return row;
    }
    if (node.children) {
      row.ariaExpanded = String(node.open);
      twisty.textContent = node.open ? "▾" : "▸";
      twisty.addEventListener("click", (event) => {
        event.stopPropagation();
        if (node.open) this.collapse(node);
        else this.expand(node).catch(this.onError);
      });
    }
    const start = node.parent ? node.parent.prefix.length : 0;
    const label = element("span", { className: "label", title: node.prefix }, decoded(node.prefix.slice(start)));
    const { math, from } = this.decision(node.prefix);
    const inherited = from && from !== node.prefix;
    const badge = element("span", { className: "badge " + (math === null ? "none" : math ? "math" : "not") }, WORDS.get(math));
    if (inherited) {
      badge.classList.add("inherited");
      badge.title = "as " + from;
    }
    const share = element("i");
    share.style.width = `${(100 * node.collected) / node.pages}%`;
    const counts = `${number(node.collected)} of ${number(node.pages)}`;
    const bar = element("span", { className: "bar", ariaHidden: "true" }, share);
    row.append(
      element("span", { className: "name" }, twisty, label), badge, element("span", { className: "numbers" }, counts, bar),
    );
    row.ariaLabel = `${decoded(node.prefix)}, ${WORDS.get(math)}${inherited ? " as the folder above" : ""}, ${counts} collected`;
    return row;
  }
}
