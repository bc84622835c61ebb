// Sample pages. Crawled text enters the document only as text nodes and as elements created from the server's trees of
// known MathML; it is never parsed as markup.

const MATHML = "http://www.w3.org/1998/Math/MathML";

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export async function request(path, fields, body) {
  const query = fields ? "?" + new URLSearchParams(fields) : "";
  const options = body && {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch("/api/" + path + query, options);
  } catch {
    throw new Error("The annotation server does not answer; start it again, then reload this page.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

export function number(value) {
  return value.toLocaleString("en");
}

function mathml([tag, attributes, ...children]) {
  const node = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => (typeof child === "string" ? child : mathml(child))));
  return node;
}

function part(content) {
  if (typeof content === "string") return content;
  if (!content.math) return element("code", { title: "This formula cannot be rendered." }, content.latex);
  const display = content.math[1].display === "block" ? "display" : "inline";
  return element("span", { className: "formula " + display, title: content.latex }, mathml(content.math));
}

function setText(body, answer) {
  body.replaceChildren(...answer.text.map(part), ...(answer.left ? [" …"] : []));
}

function describe(page, onError) {
  const link = element("a", { target: "_blank", rel: "noopener noreferrer" }, page.url);
  if (/^https?:\/\//i.test(page.url)) link.href = page.url;
  const facts = element(
    "p", { className: "facts" },
    element("span", {}, `score ${page.score.toFixed(3)}`),
    element("span", {}, `language ${page.language}`),
    element("span", {}, `${number(page.tokens)} tokens`),
  );
  const body = element("div", { className: "text", role: "group", ariaLabel: "Text of " + page.url });
  setText(body, page);
  const card = element("article", {}, link, facts, body);
  if (page.left) {
    const button = element("button", { type: "button" }, `Whole text (${number(page.left)} more characters)`);
    button.addEventListener("click", async () => {
      try {
        const answer = await request("page", { id: page.id });
        setText(body, answer);
        body.classList.add("whole");
        body.tabIndex = 0;
        body.focus();
        if (answer.left) button.replaceWith(element("p", {}, `${number(answer.left)} more characters are not shown.`));
        else button.remove();
      } catch (error) {
        onError(error);
      }
    });
    card.append(button);
  }
  return card;
}

// Shows a sample of the pages below the prefix of `row`.
export function showSamples(list, about, answer, row, onError) {
  const shown = answer.uncollected.length + answer.collected.length;
  const first = answer.complete ? "" : ` (of those among the first ${number(answer.read)} pages of the domain)`;
  about.textContent = shown
    ? `${number(shown)} of ${number(answer.pages)} page${answer.pages === 1 ? "" : "s"} below ${row.prefix}${first}`
    : `No page below ${row.prefix} can be shown${first}.`;
  const groups = [["Not collected", answer.uncollected], ["Collected", answer.collected]];
  list.replaceChildren(
    ...groups.filter(([, pages]) => pages.length).flatMap(([title, pages]) => [
      element("h3", {}, title), ...pages.map((page) => describe(page, onError)),
    ]),
  );
  list.scrollTop = 0;
}
