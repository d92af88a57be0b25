"""MediaWiki's markup, removed: what a reader of the page sees as running text stays, in time linear in the page.

Every pattern below either has a fixed length, never gives back what it took (`*+`), or stops at the character that
starts the next attempt, so that no page, however it nests or breaks its markup, costs more than a scan of it.
The markup: https://www.mediawiki.org/wiki/Help:Formatting, https://www.mediawiki.org/wiki/Markup_spec
"""

import html
import re

# Elements that go with all they hold, and elements whose content is no markup.
DROPPED = frozenset(
    (
        "ref references gallery timeline math chem ce score hiero graph imagemap mapframe maplink templatedata"
        " templatestyles inputbox categorytree indicator section"
    ).split()
)
LITERAL = frozenset("nowiki pre source syntaxhighlight code".split())
# Tags that go while their content stays, and those of them that end a line.
TAGS = frozenset(
    (
        "a abbr b bdi big blockquote br caption center cite data dd del dfn div dl dt em font h1 h2 h3 h4 h5 h6 hr i"
        " includeonly img ins kbd li link meta noinclude nobr ol onlyinclude p poem q rb rp rt ruby s samp small span"
        " strike strong sub sup table tbody td th thead time tr tt u ul var wbr"
    ).split()
)
BREAKS = frozenset("br hr p li tr dd dt div blockquote".split())

# Links into these namespaces show a picture, or nothing; the names that the larger Wikipedias use.
UNSEEN = frozenset(
    (
        "file image media category ファイル 画像 メディア カテゴリ bild datei kategorie fichier catégorie archivo"
        " imagen categoría immagine categoria ficheiro arquivo imagem bestand afbeelding файл изображение категория"
        " plik grafika kategoria 文件 图像 圖像 檔案 分类 分類 파일 그림 분류 berkas gambar kategori"
    ).split()
)
# Templates that wrap running text, and which of their arguments are it; every other template goes.
WRAPPERS = {
    "lang": (2,),
    "transl": (2,),
    "langwithname": (3,),
    "仮リンク": (1,),
    "ill": (1,),
    "ill2": (1,),
    "interlanguage link": (1,),
    "nowrap": (1,),
    "small": (1,),
    "big": (1,),
    "color": (2,),
    "vanchor": (1,),
    "ruby": (1,),
    "読み仮名": (1,),
    "convert": (1, 2),
    "cvt": (1, 2),
}

COMMENT = re.compile(r"<!--|-->")
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)([^<>]*+)>")
BRACKETS = re.compile(r"\{{2,}+|\}{2,}+|\[\[|\]\]|^[ \t:*#;]*+\{\||^[ \t]*+\|\}(?!\})", re.MULTILINE)
INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]{2,8}){0,2}:")
EXTERNAL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]*+[ \t]*+([^\[\]\n]*+)\]")
SWITCH = re.compile(r"__(?:[A-Z]{3,30}|目次|目次強制|目次非表示|節編集非表示)__")
QUOTES = re.compile(r"'{2,}+")
HUGE_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{9,}+;?")  # no character, and more digits than int() takes
SPACES = re.compile(r"[ \t]{2,}+")
HOLLOW = re.compile(r"[(（][\s、,，;；:：/]*+[)）]")  # brackets whose content was a template
HOLLOW_START = re.compile(r"([(（])[\s、,，;；]++")
HOLLOW_END = re.compile(r"(?<![\s、,，;；])[\s、,，;；]++(?=[)）])")
RULE = re.compile(r"-{4,}+")

# Characters that mean something, and what stands for them in literal text until the end: noncharacters of Unicode.
MARKS = "[]{}<>()（）|'=*#:;&_-!\n\t "
STAND_INS = "".join(chr(0xFDD0 + number) for number in range(len(MARKS)))
HIDE = str.maketrans(MARKS, STAND_INS)
SHOW = str.maketrans(STAND_INS, MARKS)
FORGED = str.maketrans(dict.fromkeys(STAND_INS))


def plain_text(wikitext: str) -> str:
    """The running text of a page: headings, paragraphs and list items, a line each, without any markup.

    Templates (but those that wrap text, such as lang), tables, references, pictures, categories, galleries, formulas,
    comments and headings of sections without text are gone; links became their labels, entities their characters.
    """
    text = wikitext.replace("\r\n", "\n").translate(FORGED)
    text = _without_brackets(_without_elements(_without_comments(text)))
    text = EXTERNAL.sub(r"\1", text)
    text = TAG.sub(_without_tag, text)
    text = QUOTES.sub("", SWITCH.sub("", text))
    text = "\n".join(_lines(text))
    text = html.unescape(HUGE_NUMBER.sub("\ufffd", text)).replace("\xa0", " ")
    text = HOLLOW_END.sub("", HOLLOW_START.sub(r"\1", HOLLOW.sub("", SPACES.sub(" ", text))))
    return text.translate(SHOW).strip()


def _without_comments(text: str) -> str:
    """A comment that never ends is kept as text: MediaWiki would hide the rest of the page."""
    if "<!--" not in text:
        return text
    pieces, at, opened = [], 0, None
    for mark in COMMENT.finditer(text):
        if mark[0] == "<!--" and opened is None:
            opened = mark
        elif mark[0] == "-->" and opened is not None:
            pieces.append(text[at : opened.start()])
            at, opened = mark.end(), None
    if opened is not None:
        pieces.append(text[at : opened.start()])
        at = opened.end()
    return "".join([*pieces, text[at:]])


def _without_elements(text: str) -> str:
    """Elements with foreign content removed, and the marks in literal elements hidden."""
    tags = [tag for tag in TAG.finditer(text) if tag[2].lower() in DROPPED or tag[2].lower() in LITERAL]
    ends: list[int | None] = []  # of each tag: the number of the next closing tag of its name
    next_end: dict[str, int] = {}
    for number in range(len(tags) - 1, -1, -1):
        name = tags[number][2].lower()
        ends.append(next_end.get(name))
        if tags[number][1]:
            next_end[name] = number
    ends.reverse()
    pieces, at, number = [], 0, 0
    while number < len(tags):
        tag, end = tags[number], ends[number]
        pieces.append(text[at : tag.start()])
        at = tag.end()
        if not tag[1] and not tag[3].endswith("/") and end is not None:
            if tag[2].lower() in LITERAL:
                pieces.append(text[tag.end() : tags[end].start()].translate(HIDE))
            at, number = tags[end].end(), end
        number += 1
    return "".join([*pieces, text[at:]])


def _without_tag(tag: re.Match[str]) -> str:
    name = tag[2].lower()
    return tag[0] if name not in TAGS else "\n" if name in BREAKS else ""


def _without_brackets(text: str) -> str:
    """Templates and tables removed, links replaced by their labels; of what is never closed only the brackets go.

    One pass with a stack of open brackets. What is between an opening and a closing one is a run of `pieces`, which is
    cut or kept as it is and never copied, so that depth costs nothing.
    """
    pieces: list[str] = []
    stack: list[tuple[str, int, int]] = []  # kind, number of its first piece, braces
    open_kinds = {"{": 0, "[": 0, "|": 0}
    at = 0

    def push(kind: str, braces: int = 0) -> None:
        stack.append((kind, len(pieces), braces))
        open_kinds[kind] += 1

    def pop(kind: str) -> tuple[int, int]:
        """The innermost of `kind`, with the unclosed ones inside it forgotten: its first piece and its braces."""
        while True:
            innermost, first, braces = stack.pop()
            open_kinds[innermost] -= 1
            if innermost == kind:
                return first, braces

    for mark in BRACKETS.finditer(text):
        pieces.append(text[at : mark.start()])
        at = mark.end()
        token = mark[0].lstrip(" \t:*#;")
        if token == "{|":
            push("|")
        elif token == "[[":
            push("[")
        elif token[0] == "{":
            push("{", len(token))
        elif token == "|}":
            if open_kinds["|"]:
                del pieces[pop("|")[0] :]
        elif token == "]]":
            if open_kinds["["]:
                _close_link(pieces, pop("[")[0])
        else:
            braces = len(token)
            while braces >= 2 and open_kinds["{"]:
                first, opened = pop("{")
                _close_template(pieces, first)
                if opened - braces >= 2:  # {{{{a}} b}}: two of four are closed
                    stack.append(("{", first, opened - braces))
                    open_kinds["{"] += 1
                braces -= min(opened, braces)
    pieces.append(text[at:])
    return "".join(pieces)


def _close_link(pieces: list[str], first: int) -> None:
    """Put a link's label in its place, or nothing."""
    if first == len(pieces):
        return
    target, pipe, label = pieces[first].partition("|")
    namespace = target.partition(":")[0].strip().lower() if ":" in target else ""
    if namespace in UNSEEN or (not pipe and INTERLANGUAGE.match(target)):
        del pieces[first:]
    elif pipe and "\n" not in target:
        pieces[first] = label
    elif target.startswith(":"):
        pieces[first] = target[1:]


def _close_template(pieces: list[str], first: int) -> None:
    """Put the text that a template wraps in its place, or nothing."""
    name, _, arguments = pieces[first].partition("|") if first < len(pieces) else ("", "", "")
    name = name.strip().lower()
    wanted = (1,) if name.startswith("lang-") else WRAPPERS.get(name)
    parts = arguments.split("|", wanted[-1]) if wanted else []
    if wanted is None or len(parts) < wanted[-1]:
        del pieces[first:]
        return
    if len(parts) > wanted[-1]:  # the last argument ends here; otherwise it runs on in the pieces that follow
        del pieces[first + 1 :]
    pieces[first] = " ".join(parts[number - 1] for number in wanted)


def _lines(text: str) -> list[str]:
    """The lines, without what marks them as heading, list item or indented; headings that nothing follows are gone."""
    lines: list[str] = []
    headings: list[tuple[int, str]] = []
    for raw in text.split("\n"):
        line = raw.strip()
        if line.startswith("=") and line.endswith("=") and (title := line.strip("=").strip()):
            level = min(len(line) - len(line.lstrip("=")), 6)
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, title))
            continue
        line = line.lstrip("*#:; \t\u3000")
        if line.startswith("|") or RULE.fullmatch(line):  # of a table that never ends
            continue
        if line:
            lines += [title for _, title in headings]
            headings.clear()
            lines.append(line)
        elif lines and lines[-1]:
            lines.append("")
    return lines
