"""Removes the boilerplate of a page: menus, banners, comments, footers, hidden elements.

An element, a role or a name only makes a block a candidate. It is removed if most text of the page is outside of it, or
if it has hardly more than links.
"""

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any

from dsmath_jax.corpus.text.dom import outermost, select

# Elements without text of the page.
NO_TEXT = (
    "script, style, template, noscript, iframe, img, button, input, select, textarea, svg, canvas, object, video, "
    "audio, dialog, datalist"
)
BOILERPLATE = (
    "nav, footer, header, [role=navigation], [role=banner], [role=contentinfo], [role=search], "
    "[role=complementary], [role=dialog], [role=alertdialog], [role=menu], [role=menubar], [role=tooltip]"
)
FIELDS = "textarea, [type=text], [type=email], [type=search], [type=password], input:not([type])"
HIDDEN = "[hidden], [style*='display:none'], [style*='display: none'], [aria-hidden='true']"
NAMES = re.compile(r"""(?:class|id|CLASS|ID)\s*=\s*["']?([^"'>]*)""")
PLAIN_NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)
BOILERPLATE_NAME = re.compile(
    r"(?:\w+[-_]{1,2})*?(?:nav|subnav|topnav|mainnav|navbar|navigation|menu|mainmenu|submenu|"
    r"menubar|topbar|sidebar|sphinxsidebar|breadcrumbs?|footer|masthead|"
    r"cookies?|cookie(?:consent|bar|hint|banner|notice|law|content|box|popup)|gdpr|consent|toc|tableofcontents|comments?|disqus|respond|shar(?:e|ing)|sharedaddy|social|"
    r"socials|related|relations|pagination|pager|paginator|prev[-_]?next|prevnext|advert|advertisement|ads?|adsbygoogle|"
    r"newsletter|subscribe|subscription|popup|modal|tooltip|skip-?links?|skip-?to-?content|headerlink|anchorjs-link|"
    r"header-?anchor|heading-?anchor|anchor-?link|copybtn|copy-?button|toolbar|searchbox|search-?form|edit-?page|"
    r"edit-?this-?page|edit-?link|mw-editsection|editsection|catlinks|navbox|jump-?to-?nav|noprint|printfooter|"
    r"post-?meta|entry-?meta|metadata|sr-only|screen-reader-text|visually-?hidden|copyright|login|widget-?area|"
    r"author-?(?:box|bio|info|card)|site-header|nav-?(?:previous|next)|(?:post|page|article|chapter)-?(?:prev|next|previous)|"
    r"(?:post|entry|article)-?(?:tags|categories|cats)|lang(?:uage)?-?(?:switcher|selector|picker)|credits?|feedback|byline|tag-?list|tagcloud|tag-?cloud|back-?to-?top|scroll-?to-?top|announcement|hidden-content|"
    r"gutter|linenos?|line-?numbers?|lineno|linenodiv|hljs-ln-numbers|rouge-gutter)"
    r"(?:[-_]{1,2}(?:inner|wrap|wrapper|container|content|area|list|items?|thread|links?|bar|box|sections?|widgets?|banner|"
    r"notice|overlay|tree|toggle|header|title|buttons?|icons?|left|right|top|bottom|main|primary|secondary|desktop|"
    r"mobile|block|group|row|nav|menu|page|post|body|holder|panel|text|label|message|form|sidebar))*",
    re.IGNORECASE,
)
# Line numbers next to code.
GUTTER = re.compile(r"gutter|line-?n", re.IGNORECASE)
# Names of content that refer to boilerplate elsewhere (has-sidebar).
STATE = re.compile(r"(?:^|[-_])(?:has|with|no|non|without|hide|show|open|is|main-content)(?:[-_]|$)", re.IGNORECASE)
# Elements that a removed block must not contain, and elements that are kept whatever their name.
CONTENT = "h1, main, article"
KEPT_TAGS = frozenset("html body main article h1 code pre math".split())
# A link that skips within the page, or is only an anchor.
SKIP_LINK = re.compile(
    r"\W*(?:(?:skip|jump|zum|zur|aller|saltar|ir|vai|przejdź|перейти)\b.{0,40}|跳.{0,12})|[🔗¶§#↑↩↵⚓∞\ufe0e\ufe0f]+",
    re.IGNORECASE,
)
CONSENT = re.compile(
    r"(?:we (?:and our|use)|th(?:is|e) (?:web)?site|our (?:web)?site|diese (?:web)?s(?:e)?ite|"
    r"(?:unsere[rn]?|dieser) web|wir (?:nutzen|verwenden)|"
    r"nous utilisons|ce site|utilizamos|este sitio|questo sito|本网站|本站)",
    re.IGNORECASE,
)
AGREEMENT = re.compile(
    r"accept|agree|consent|allow|got it|akzept|ablehn|zustimm|einverstanden|acept|accett|同意|接受", re.IGNORECASE
)
MAX_NOTICE_CHARS = 1_500
FORMULA = re.compile(r"\ufdd0|\$|\\[(\[]")  # a token of `formulas`, or a delimiter
# A block of at least MENU_LINKS links that have more than MENU_LINK_SHARE of its text is a menu.
MENU_LINKS, MENU_LINK_SHARE = 4, 0.8
MAX_BOILERPLATE_SHARE = 0.5
MIN_REST_SHARE = 0.1
MAX_HIDDEN_CHARS, MIN_CONTENT_CHARS, MAX_NAME_CHARS = 200, 200, 60
MAX_SELECTORS, LONG_BLOCK = 60, 1_000


def remove_boilerplate(tree: Any, html: str) -> None:
    """Removes the boilerplate of a parsed page.

    Args:
      tree: the page.
      html: its source, for the names of its elements.
    """
    forms = [node for node in select(tree.body, "form") if node.query_selector(FIELDS) is not None]
    _remove(select(tree.body, NO_TEXT))
    whole, prose = len(tree.body.text), _prose(tree.body)
    candidates = select(tree.body, BOILERPLATE) + forms
    candidates += [node for node in select(tree.body, "aside") if _is_outside_content(node)]
    candidates += [node for node in select(tree.body, HIDDEN) if len(node.text) < MAX_HIDDEN_CHARS or _is_menu(node)]
    _remove([node for node in candidates if _is_removable(node, whole)])
    found = []
    for nodes in _named(tree, html):
        if sum(len(node.text) for node in nodes) < MAX_BOILERPLATE_SHARE * whole:
            found += [node for node in nodes if node.tag not in KEPT_TAGS and not _has_content(node)]
        else:
            found += [node for node in nodes if _is_menu(node) and _is_removable(node, whole)]
    found += [link for link in select(tree.body, "a[href^='#']") if SKIP_LINK.fullmatch((link.text or "").strip())]
    if "ookie" in html:
        found += [node for node in select(tree.body, "div, section, p, aside") if _is_notice(node)]
    _remove([node for node in found if len(node.text or "") < LONG_BLOCK or 2 * _prose(node) <= prose])
    lists = [*outermost(select(tree.body, "ul, ol")), *_link_lists(tree)]
    menus = [node for node in lists if _is_menu(node) and not FORMULA.search(node.text or "")]
    rest = len(tree.body.text) - sum(len(node.text) for node in menus)
    if rest > MIN_REST_SHARE * whole:
        _remove(menus)


def _remove(nodes: list[Any]) -> None:
    for node in nodes:
        node.remove()


def _prose(block: Any) -> int:
    """Returns the length of the text in paragraphs: a block with most of the page's is not boilerplate."""
    return sum(len(paragraph.text or "") for paragraph in select(block, "p"))


def _is_removable(node: Any, whole: int) -> bool:
    if node.tag in KEPT_TAGS:
        return False
    small = len(node.text) < MAX_BOILERPLATE_SHARE * whole
    return (small and not _has_content(node)) or _is_menu(node)


def _has_content(block: Any) -> bool:
    return any(
        part.tag == "h1" or len(_squeeze(part.text or "")) > MIN_CONTENT_CHARS for part in select(block, CONTENT)
    )


def _is_notice(block: Any) -> bool:
    """Returns whether a block is a cookie notice."""
    text = block.text or ""
    return (
        len(text) < MAX_NOTICE_CHARS and "ookie" in text and bool(CONSENT.search(text)) and bool(AGREEMENT.search(text))
    )


def _link_lists(tree: Any) -> list[Any]:
    """Returns elements with many links as children, which may be a menu or a tag cloud."""
    parents = [link.parent for link in select(tree.body, "a")]
    parents = [
        parent.parent if parent.first_element_child == parent.last_element_child else parent for parent in parents
    ]
    lists: list[Any] = []
    for number, parent in enumerate(parents):
        many = number >= MENU_LINKS and parent == parents[number - MENU_LINKS]
        if many and parent.tag not in (*KEPT_TAGS, "li") and not (lists and lists[-1] == parent):
            lists.append(parent)
    return lists


def _is_outside_content(aside: Any) -> bool:
    """Returns whether an <aside> is outside the content or mostly links (a note within the content is content)."""
    text = aside.text or ""
    inside = aside.closest("main, article, section, .content") is not None
    linked = sum(len(link.text or "") for link in select(aside, "a"))
    return not inside or linked > 0.5 * len(text)


def _named(tree: Any, html: str) -> list[list[Any]]:
    """Returns the elements of each boilerplate name that the page uses."""
    used = {name for value in set(NAMES.findall(html)) for name in value.split()}
    names = {name for name in used if _is_boilerplate_name(name)}
    if not names:
        return []
    groups: dict[str, list[Any]] = defaultdict(list)
    few = len(names) <= MAX_SELECTORS
    selector = ", ".join(f".{name}, #{name}" for name in sorted(names)) if few else "[class], [id]"
    nodes = select(tree.body, selector)
    for node in outermost(nodes if few else [node for node in nodes if any(name in names for name in _names(node))]):
        if (
            node.tag == "span"
            and node.closest("pre, code") is not None
            and not GUTTER.search(node.getattr("class") or "")
        ):
            continue  # a comment in a program, not on the page
        groups[next(name for name in _names(node) if name in names)].append(node)
    return list(groups.values())


def _names(node: Any) -> list[str]:
    return f"{node.getattr('class') or ''} {node.getattr('id') or ''}".split()


@lru_cache(100_000)
def _is_boilerplate_name(name: str) -> bool:
    if len(name) > MAX_NAME_CHARS or not PLAIN_NAME.fullmatch(name) or STATE.search(name):
        return False
    return BOILERPLATE_NAME.fullmatch(name) is not None


def _is_menu(block: Any) -> bool:
    links = select(block, "a")
    if len(links) < MENU_LINKS:
        return False
    length = len(_squeeze(block.text))
    linked = sum(len(_squeeze(link.text)) for link in links)
    return linked > MENU_LINK_SHARE * length


def _squeeze(text: str) -> str:
    return "".join(text.split())
