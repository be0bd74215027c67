"""Markup to plain text: troff manual pages and HTML documentation."""

import html
import re

TROFF_CHARACTERS = {
    "aq": "'", "dq": '"', "bu": "-", "en": "–", "em": "—", "co": "©", "rs": "\\", "at": "@", "ha": "^",
    "ti": "~", "hy": "-", "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "is": "∫", "if": "∞", "pd": "∂",
    "mc": "µ", "ga": "`", "ba": "|", "sh": "#", "Do": "$", "mu": "×", "->": "→", "<=": "≤", ">=": "≥",
}  # fmt: skip
_FONT_MACROS = {"B", "I", "BR", "BI", "IB", "IR", "RB", "RI", "SM", "SB", "R"}
_JOINED_MACROS = {"BR", "BI", "IB", "IR", "RB", "RI"}  # these join their arguments without spaces
_HEADINGS = {"SH", "SS"}
_PARAGRAPHS = {"PP", "P", "LP", "TP", "IP", "HP", "sp", "Sp", "TQ"}
_SKIPPED_REGIONS = {"TS": "TE", "de": ".", "ig": ".", "EQ": "EN"}
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"|(\S+)')


def troff_to_text(source: str) -> str | None:
    """Plain text of a manual page written with the `man` macros; None for the `mdoc` ones, which differ."""
    if re.search(r"^\.(Dd|Sh|Nm)\b", source, re.MULTILINE):
        return None
    lines: list[str] = []
    skip_until: str | None = None
    for line in source.split("\n"):
        if skip_until is not None:
            if re.match(rf"^[.']\s*{re.escape(skip_until)}\b|^\.\.\s*$", line):
                skip_until = None
            continue
        if line[:1] not in (".", "'"):
            lines.append(_plain_troff(line))
            continue
        macro, _, rest = line[1:].strip().partition(" ")
        if macro in _SKIPPED_REGIONS:
            skip_until = _SKIPPED_REGIONS[macro]
            continue
        lines.extend(_macro_lines(macro, rest))
    return squeeze_blank_lines("\n".join(lines))


def _macro_lines(macro: str, rest: str) -> list[str]:
    arguments = [quoted.replace('""', '"') if quoted else bare for quoted, bare in _ARGUMENT.findall(rest)]
    if macro in _HEADINGS:
        return ["", _plain_troff(" ".join(arguments)), ""]
    if macro in _FONT_MACROS:
        return [_plain_troff(("" if macro in _JOINED_MACROS else " ").join(arguments))]
    if macro == "IP" and arguments:
        return ["", _plain_troff(arguments[0])]
    if macro in ("UR", "MT") and arguments:
        return [_plain_troff(arguments[0])]
    return [""] if macro in _PARAGRAPHS else []


def _plain_troff(line: str) -> str:
    line = re.sub(r'\\".*$', "", line)
    line = re.sub(r"\\f(\[[^]]*\]|\(..|.)|\\s[-+]?\d|\\m\[[^]]*\]|\\[hvw]'[^']*'", "", line)
    line = re.sub(r"\\\[([^]]*)\]", lambda match: TROFF_CHARACTERS.get(match[1], ""), line)
    line = re.sub(r"\\\((..)", lambda match: TROFF_CHARACTERS.get(match[1], ""), line)
    line = re.sub(r"\\[*n](\[[^]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\[&%/,|^:cud{}]", "", line)
    line = line.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\0", " ")
    return re.sub(r"\\(.)", lambda match: "\\" if match[1] in "e\\" else match[1], line).rstrip()


_BLOCK_TAGS = r"p|div|h[1-6]|li|ul|ol|dl|dt|dd|pre|table|tr|br|hr|blockquote"


def html_to_text(source: str) -> str:
    """Plain text of an HTML page: navigation, scripts and tags dropped, preformatted lines kept as they are."""
    body = re.sub(r"(?is)<(script|style|head)\b.*?</\1>|<!--.*?-->", "", source)
    body = re.sub(r'(?is)<div class="nav(header|footer)">.*?</table>.*?</div>', "", body)
    pieces = re.split(r"(?is)(<pre\b.*?</pre>)", body)
    text = "".join(piece if piece[:4].lower() == "<pre" else re.sub(r"\s+", " ", piece) for piece in pieces)
    text = re.sub(r"(?i)</t[dh]>\s*<t[dh]\b[^>]*>", " | ", text)
    text = re.sub(rf"(?i)</?({_BLOCK_TAGS})\b[^>]*>", "\n\n", text)
    text = html.unescape(re.sub(r"(?s)<[^>]+>", "", text)).replace("\xa0", " ")
    return squeeze_blank_lines(
        "\n".join(line if line.startswith("  ") else line.strip() for line in text.split("\n"))
    )


def squeeze_blank_lines(text: str) -> str:
    """At most one blank line in a row, none at the ends, no form feeds, no trailing spaces."""
    text = re.sub(r"[ \t]+\n", "\n", text.replace("\f", "").replace("\r", "") + "\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")
