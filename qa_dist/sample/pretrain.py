"""Pre-train the bundled encoder: a small BERT that has read the micro-world, by masked language modelling.

In: nothing. Out: a folder that AutoModel and AutoTokenizer load.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from qa_dist.sample import words
from qa_dist.sample.conversations import make_turns
from qa_dist.sample.stories import make_story, pick

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)


def make_tokenizer() -> Tokenizer:
    tables = [words.VALUES, words.RELATIONS, words.QUESTIONS, words.IT_QUESTIONS, words.YES_NO, words.WHO,
              words.AND_QUESTIONS, words.OPENERS, words.CLOSERS, words.WOMEN, words.MEN]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    pre = pre_tokenizers.BertPreTokenizer()
    found = {"yes", "no", "unknown", "she", "he", "her", "his"}

    def add(x):
        if isinstance(x, str):
            import re
            x = re.sub(r"\{\w+\}", " ", x)
            found.update(w for w, _ in pre.pre_tokenize_str(normalizer.normalize_str(x)))
        elif isinstance(x, dict):
            for v in x.values():
                add(v)
        else:
            for v in x:
                add(v)
    add(tables)
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    alnum = [c for c in letters if c.isalnum()]
    pieces = SPECIALS + letters + ["##" + c for c in alnum] + sorted(w for w in found if len(w) > 1)
    t = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    return t


def content_ids(t):
    ids = set()
    for vs in [*words.VALUES.values(), words.WOMEN, words.MEN]:
        for v in vs:
            ids.add(t.encode(v, add_special_tokens=False).ids[-1])
    return ids


class Maker:
    def __init__(self, t):
        self.t = t
        self.content = content_ids(t)
        self.names = {self.enc(n)[0] for n in words.WOMEN + words.MEN}
        self.cl = sorted(self.content)
        self.ans = [t.token_to_id(w) for w in ("yes", "no", "unknown")]

    def enc(self, s):
        return self.t.encode(s, add_special_tokens=False).ids

    def story(self, rng, num_facts, num_turns, max_hist, cls_p):
        st = make_story(rng, pick(rng, words.SOURCES), num_facts, num_facts > 4)
        turns = make_turns(rng, st, num_turns)
        sids = self.enc(st.text)
        q = [self.enc(x.question) for x in turns]
        a = [self.enc(x.answer) for x in turns]
        for i in range(len(turns)):
            first = max(0, i - max_hist)
            ids = [CLS]
            kind = [0]
            for j in range(first, i):
                ids += [*q[j], SEP, *a[j], SEP]
            is_final = rng.random() < cls_p
            ids += [*q[i], SEP]
            if not is_final:
                ids += [*a[i], SEP]
            ns = len(ids)
            ids += [*sids, SEP]
            yield self.mask(rng, ids, ns, a[i][-1] if is_final else -1)

    def mask(self, rng, ids, ns, cls_label):
        labels = [-100] * len(ids)
        kinds = [0] * len(ids)
        if cls_label >= 0:
            labels[0] = cls_label
            kinds[0] = 4
        out = list(ids)
        where = {}
        for p, w in enumerate(ids):
            if w in self.content:
                where.setdefault(w, []).append(p)
        def hide(p, kind):
            labels[p] = ids[p]
            kinds[p] = kind
            d = rng.random()
            out[p] = MASK if d < 0.85 else pick(rng, self.cl) if d < 0.95 else ids[p]
        for w, ps in where.items():
            d = [p for p in ps if p < ns]
            s = [p for p in ps if p >= ns]
            if not d or not s:
                continue
            x = rng.random() * (2.5 if w in self.names else 1)
            if x < 0.4:
                for p in d:
                    hide(p, 1)
            elif x < 0.8:
                if len(s) == 1:
                    hide(s[0], 2)
                else:
                    hide(pick(rng, s), 2)
        for p, w in enumerate(ids):
            if w in self.ans and rng.random() < 0.7:
                hide(p, 3)
            elif p and labels[p] == -100 and w > 4 and rng.random() < 0.03:
                hide(p, 5)
        return out, ns, labels, kinds


def batches(mk, rng, size, cfg):
    """cfg() -> (facts, turns, hist, cls_p)"""
    pool = []
    while True:
        while len(pool) < size * 8:
            pool += mk.story(rng, *cfg())
        # mix: sort by random
        rng.shuffle(pool)
        b, pool = pool[:size], pool[size:]
        T = max(len(x[0]) for x in b)
        ids = torch.zeros(size, T, dtype=torch.long)
        tt = torch.zeros(size, T, dtype=torch.long)
        lab = torch.full((size, T), -100)
        kd = torch.zeros(size, T, dtype=torch.long)
        am = torch.zeros(size, T, dtype=torch.long)
        for i, (o, ns, l, k) in enumerate(b):
            n = len(o)
            ids[i, :n] = torch.tensor(o)
            tt[i, ns:n] = 1
            lab[i, :n] = torch.tensor(l)
            kd[i, :n] = torch.tensor(k)
            am[i, :n] = 1
        yield ids, tt, am, lab, kd


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=300)
    ap.add_argument("--layers", type=int, default=3)
    ap.add_argument("--hidden", type=int, default=128)
    ap.add_argument("--heads", type=int, default=4)
    ap.add_argument("--ff", type=int, default=256)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--short", type=float, default=0.3)
    ap.add_argument("--init", type=float, default=0.06)
    ap.add_argument("--pos", type=float, default=0.06)
    ap.add_argument("--frame", type=int, default=0)
    ap.add_argument("--cls", type=float, default=0.4)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    rng = random.Random(1000003)
    t = make_tokenizer()
    print("vocab", t.get_vocab_size())
    mk = Maker(t)
    cfg = BertConfig(vocab_size=t.get_vocab_size(), hidden_size=a.hidden, num_hidden_layers=a.layers, num_attention_heads=a.heads,
        intermediate_size=a.ff, max_position_embeddings=256, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=a.init)
    m = BertForMaskedLM(cfg)
    with torch.no_grad():
        pos = torch.arange(256)[:, None]
        f = torch.exp(-math.log(1000.0) * torch.arange(0, a.hidden, 2) / a.hidden)[None]
        m.bert.embeddings.position_embeddings.weight[:, 0::2] = torch.sin(pos * f) * a.pos
        m.bert.embeddings.position_embeddings.weight[:, 1::2] = torch.cos(pos * f) * a.pos
    print("params", sum(p.numel() for p in m.parameters()))
    opt = torch.optim.AdamW(m.parameters(), lr=a.lr, weight_decay=0.01, betas=(0.9, 0.98))
    t0 = time.time()
    def conf():
        fr = (time.time() - t0) / a.seconds
        if fr < a.short:
            n = 2 + int(rng.random() * 3)
            return n, 4, 0 if fr < a.short / 2 else 1, a.cls
        return 7 + int(rng.random() * 3), 10, 2, a.cls
    it = batches(mk, rng, a.batch, conf)
    step = 0
    hit = torch.zeros(6); cnt = torch.zeros(6)
    ls = []
    while (el := time.time() - t0) < a.seconds:
        fr = el / a.seconds
        lr = a.lr * min(1, step / 100) * (1 if fr < 0.6 else max(0.02, (1 - fr) / 0.4))
        for g in opt.param_groups: g["lr"] = lr
        ids, tt, am, lab, kd = next(it)
        h = m.bert(input_ids=ids, token_type_ids=tt, attention_mask=am).last_hidden_state
        sel = lab != -100
        logits = m.cls(h[sel])
        y = lab[sel]
        k = kd[sel]
        w = torch.tensor([1.0, 1, 1, 1, 1, 0.3])[k]
        loss = (torch.nn.functional.cross_entropy(logits, y, reduction="none") * w).sum() / w.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step(); opt.zero_grad()
        ok = (logits.argmax(-1) == y).float()
        hit.index_add_(0, k, ok); cnt.index_add_(0, k, torch.ones_like(ok))
        ls.append(loss.item())
        step += 1
        if step % 100 == 0:
            print(f"{step} {el:.0f}s T={ids.shape[1]} loss {sum(ls)/len(ls):.3f} dlg {hit[1]/cnt[1]:.3f} story {hit[2]/cnt[2]:.3f} ynu {hit[3]/cnt[3]:.3f} cls {hit[4]/cnt[4]:.3f} rnd {hit[5]/cnt[5]:.3f}", flush=True)
            hit.zero_(); cnt.zero_(); ls = []
    out = Path(a.out); out.mkdir(parents=True, exist_ok=True)
    m.bert.save_pretrained(out)
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast
    BertTokenizerFast(tokenizer_object=t, do_lower_case=True, model_max_length=256).save_pretrained(out)
    torch.save(m.state_dict(), out / "full.pt")


if __name__ == "__main__":
    main()
