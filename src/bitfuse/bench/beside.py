"""What belongs beside a score whose gallery holds the labelled training set: figures on what training never saw.

Reference: Sablayrolles, Douze, Usunier & Jégou, "How should we evaluate supervised hashing?", arXiv 1609.06753: where
queries, gallery and training share their classes, the output of a classifier is a great hash.
"""

from __future__ import annotations

import numpy as np

from bitfuse.bench import modes as asking
from bitfuse.bench.answers import Examination
from bitfuse.bench.scores import score
from bitfuse.errors import InputError

DISJOINT = "no training rows"
UNSEEN = "unseen classes"


def beside(exam: Examination, mode: asking.Mode) -> dict[str, float]:
    """The metric of an answered mode where training can help less.

    Returns:
        `"no training rows"`, where the gallery holds training rows: the score in the gallery without them; NaN where
        nothing is left, so that no such figure can be given. `"unseen classes"`, where queries carry labels that no
        training row has: the score of those queries by those labels alone.
    """
    space = asking.spaces(exam.subject, mode)
    train, query, gallery = exam.dataset.train, exam.dataset.query, exam.dataset.gallery
    if space is None or train.labels is None or query.labels is None or gallery.labels is None:
        raise InputError("only a mode that the method answers on labelled data can be judged")
    q_rows, g_rows = (
        asking.rows_with(part, views, exam.subject) for part, views in ((query, mode.query), (gallery, mode.gallery))
    )
    codes, _ = exam.coder.code(asking.Coding("query", space[0], mode.query), q_rows)
    searched = exam.galleries[asking.Coding("gallery", space[1], mode.gallery)]
    y_q, y_g = query.labels[q_rows], gallery.labels[g_rows]
    found = {}
    trained_ids = set(train.ids)
    trained = np.array([gallery.ids[i] in trained_ids for i in g_rows.tolist()])
    if trained.any():
        rest = np.flatnonzero(~trained)
        judged = (
            score(codes, searched[rest], y_q, y_g[rest], exam.protocol, threads=exam.threads) if len(rest) else None
        )
        found[DISJOINT] = float("nan") if judged is None else judged.map
    unseen = ~train.labels.any(axis=0) & y_q.any(axis=0)
    if unseen.any():
        rows = np.flatnonzero(y_q[:, unseen].any(axis=1))
        asked, given = y_q[rows][:, unseen], y_g[:, unseen]
        found[UNSEEN] = score(codes[rows], searched, asked, given, exam.protocol, threads=exam.threads).map
    return found
