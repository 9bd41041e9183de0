"""Does a text read as code? Line patterns for SQL, shell, programming languages and markup.

Each family needs a *structural* signal beside its words, because English begins sentences with
``find``, ``select``, ``make``, ``sort`` and ``update`` as well. The patterns need not be perfect on
one answer: :func:`hone.evaluation.shape.detect_shape` asks for a large share of all answers.
"""

from __future__ import annotations

import re

__all__ = ["looks_like_code"]

_FENCED = re.compile(r"^```[\w+#.-]*\n.*\n?```$", re.DOTALL)

_SQL_STATEMENT = re.compile(
    r"^\(?\s*(?:"
    r"with\s+(?:recursive\s+)?\w+\s*(?:\([^)]*\)\s*)?as\s*\(|select\b.+\bfrom\b|insert\s+(?:or\s+\w+\s+)?into\b|"
    r"update\s+\S+\s+set\b|delete\s+from\b|merge\s+into\b|truncate\s+table\b|explain\s+select\b|"
    r"create\s+(?:or\s+replace\s+)?(?:\w+\s+)?(?:table|view|index|database|schema|function|procedure|trigger)\b|"
    r"alter\s+table\b|drop\s+(?:table|view|index|database)\b|grant\s+\w+.*\bon\b)",
    re.IGNORECASE | re.DOTALL,
)
_SQL_SIGNAL = re.compile(r"[=*;<>()]|\w_\w|\w\.\w|^\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|DROP)\b")

_SHELL_COMMAND_NAMES = """
    7z alias apk apt apt-get ar at awk basename bash bc brew bzip2 cal cat cd chattr chgrp chmod chown chroot cksum
    clear cmp column comm cp cpio cron crontab csplit curl cut date dc dd declare df diff dig dir dirname dirs disown
    dmesg dnf docker dpkg du echo egrep enable env eval exec exit expand export expr factor false fdisk fg fgrep file
    find fmt fold free fsck ftp function fuser fzf gawk gcc getent getopts git go gpg grep groups gunzip gzip hash
    head help hexdump history host hostname htop iconv id ifconfig info install iostat ip iptables java jobs join
    journalctl jq kill killall kubectl last ld ldd less let ln local locate logger login logname ls lsblk lscpu lsof
    make man md5 md5sum mkdir mkfifo mknod mktemp more mount mv nano nc netstat nice nl nm node nohup npm nproc
    nslookup od openssl pacman parallel passwd paste patch perl pgrep php ping pip pip3 pkill popd printenv printf ps
    pstree pushd pv pwd python python3 rcp read readlink realpath rename renice rev rm rmdir rsync ruby scp screen
    script sed seq set sftp sh sha1sum sha256sum shift shopt shred shuf sleep snap sort source split ss ssh ssh-keygen
    stat strace strings stty su sudo sum swapon sync sysctl systemctl tac tail tar tcpdump tee test tftp time timeout
    tmux top touch tput tr traceroute trap tree true tty type ulimit umask umount unalias uname uncompress unexpand
    uniq units unlink unset unxz unzip uptime useradd usermod vi vim vmstat w wait watch wc wget whatis whereis which
    who whoami whois xargs xxd xz yes yum zcat zgrep zip zless zsh
"""
_SHELL_COMMANDS = frozenset(_SHELL_COMMAND_NAMES.split())
_SHELL_OPENING = re.compile(
    r"^(?:\$\s+)?(?:(?:sudo|time|nohup|nice|env|exec|command|then|do|!)\s+)*(?:\w+=\S*\s+)*[({\\]?\s*([\w./+-]+)"
)
_SHELL_SIGNAL = re.compile(
    r"(?:^|\s)--?[A-Za-z0-9]|[|<>`~]|\$[\w({@!#?*]|&&|(?:^|[\s'\"=])\.{0,2}/|(?:^|\s|/)\*|\*\.\w|;|\S\.\w{1,9}(?:\s|$)|"
    r"(?:^|\s)['\"]|\\\s"
)
_SHELL_SYNTAX = re.compile(
    r"^(?:#!/|\[\[?\s|for\s+\w+\s+in\b.*\bdo\b|while\s+.*\bdo\b|until\s+.*\bdo\b|if\s+\[|case\s+\S+\s+in\b|"
    r"\w+=(?:\$|\"|'|`|\()|:\s*\(\)\s*\{|\w+\s*\(\)\s*\{|\.{0,2}/[\w./-]+(?:\s|$)|<\s*\(|\$\()",
    re.DOTALL,
)

# One match of these is enough: prose does not contain such lines.
_PROGRAM_STRONG = re.compile(
    r"^\s*(?:async\s+)?def\s+\w+\s*\(.*\).*:\s*$|^\s*(?:async\s+)?def\s+\w+\(.*\).*:\s*\S|^\s*class\s+\w+\s*[({:]|"
    r"^\s*from\s+[\w.]+\s+import\s+\S|^\s*import\s+(?:[\w.]+\s*(?:as\s+\w+\s*)?;?$|[{*]|\w+\s+from\s+['\"])|"
    r"^\s*(?:export\s+)?(?:async\s+)?function\b\s*\w*\s*\(.*\)\s*\{|^\s*(?:const|let|var|auto|final)\s+[\w{[].*=\s*\S|"
    r"^\s*#\s*include\s*[<\"]|^\s*(?:public|private|protected|static)\s+[\w<>\[\]]+.*[({;]|^\s*using\s+[\w.]+;|"
    r"^\s*(?:pub\s+)?fn\s+\w+.*[{(]|^\s*func\s+[\w(].*\{|^\s*package\s+[\w.]+;?$|"
    r"^\s*(?:if|for|while|switch|else if)\s*\(.*\)\s*\{|^\s*(?:for\s+\w+(?:,\s*\w+)*\s+in|while|if|elif|with)\s.*:\s*$|"
    r"^\s*return\s+[\w\[({'\"-].*[;()\[\]]\s*$|lambda\s+\w+(?:,\s*\w+)*\s*:|\)\s*=>\s*[{\w(]|"
    r"^\s*print\s*\(.*\)\s*;?$|console\.log\(|System\.out\.",
    re.MULTILINE,
)
# These are weak alone; most lines must match one of them.
_PROGRAM_LINE = re.compile(
    r"^\s*(?:[\w.\[\]'\"]+\s*(?:[-+*/|&]?=|:=)\s*\S.*|[\w.]+(?:\([^()]*(?:\([^()]*\)[^()]*)*\)[.\w]*)+;?|.*[;{}]|//.*|"
    r"\*/?.*|/\*.*|@\w+.*|[\w.]+\[.+\])\s*$"
)
_MARKUP = re.compile(r"^<(?:!doctype|\?xml|[A-Za-z][\w-]*)[^>]*>.*(?:</[\w-]+>|/>)\s*$", re.IGNORECASE | re.DOTALL)


def looks_like_code(text: str) -> str | None:
    """Tell whether ``text`` as a whole is SQL, a shell command, a program or markup.

    Args:
        text: one answer; prose that merely quotes code is not code.

    Returns:
        ``"sql"``, ``"shell"``, ``"program"`` or ``"markup"``; None where it reads as something else.
    """
    stripped = text.strip()
    if not stripped:
        return None
    if _FENCED.match(stripped) and stripped.count("```") == 2:
        return "program"
    if _SQL_STATEMENT.match(stripped) and _SQL_SIGNAL.search(stripped):
        return "sql"
    if _is_shell(stripped):
        return "shell"
    if _MARKUP.match(stripped):
        return "markup"
    return "program" if _is_program(stripped) else None


def _is_shell(text: str) -> bool:
    if _SHELL_SYNTAX.match(text):
        return True
    opening = _SHELL_OPENING.match(text)
    if opening is None or opening.group(1).rsplit("/", 1)[-1] not in _SHELL_COMMANDS:
        return False
    # A sentence ends in a full stop after a word; a command very seldom does.
    if re.search(r"[a-z]{2}[.!?]$", text) and not re.search(r"\s-\w|\|", text):
        return False
    return _SHELL_SIGNAL.search(text) is not None or len(text.split()) == 1


def _is_program(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    matching = sum(1 for line in lines if _PROGRAM_LINE.match(line))
    if _PROGRAM_STRONG.search(text):
        # A paragraph that quotes one line of code stays prose: most of its lines are sentences.
        prose = sum(1 for line in lines if len(line.split()) > 6 and re.search(r"[a-z][.:!?,]$", line.strip()))
        return prose * 2 <= len(lines)
    return matching >= 0.8 * len(lines) and re.search(r"[=(){}\[\];]", text) is not None
