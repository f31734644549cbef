"""Write ../fixtures/stats/stats.json, read by test_stats.c: intervals, tests and averages as scipy, statsmodels,
Python and NumPy give them, or, where they lack the procedure, as its definition gives them by other means.

  stats_fixtures.py [-o FILE]

wilson      statsmodels proportion_confint (0/1 counts)
tango       the score interval's definition: the nuisance proportion by numeric maximisation of the likelihood
            (scipy minimize_scalar), the ends by scipy brentq; statsmodels and scipy do not have it
mcnemar     statsmodels mcnemar(exact=True)
holm        statsmodels multipletests(method="holm")
flips       scipy permutation_test(permutation_type="samples"): exact, and for more than 16 values many draws
bootstrap_t NumPy, 200,000 resamples of its own; scipy and statsmodels do not have it. `strata`: several samples
detectable  statsmodels TTestPower has the t distribution, so the normal formula is solved with brentq
means       Python's round per dataset, NumPy's per category and whole (the reference's scripts)
"""
import argparse
import json
import os
import warnings

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

Z = stats.norm.ppf(0.975)
LONGBENCH = {"single_doc_qa": 3, "multi_doc_qa": 3, "summarization": 3, "few_shots": 3, "synthetic": 1, "code": 2}


def wilson():
    return [dict(k=k, n=n, lo=lo, hi=hi) for k, n in [(0, 2), (1, 2), (0, 15), (14, 15), (15, 15), (25, 50), (197, 200), (200, 200), (1, 3550)]
            for lo, hi in [proportion_confint(k, n, 0.05, "wilson")]]


def tango_score(up, down, n, d):
    """(up - down - n d) over its standard error with the likeliest q21 under q12 = q21 + d."""
    def loss(q):
        cells = (up, q + d), (down, q), (n - up - down, 1 - 2 * q - d)
        return -sum(k * np.log(max(p, 1e-300)) for k, p in cells if k)
    lo, hi = max(0.0, -d), (1 - d) / 2
    q = optimize.minimize_scalar(loss, bounds=(lo, hi), method="bounded", options=dict(xatol=1e-14)).x
    q = min((lo, q, hi), key=loss)
    return (up - down - n * d) / np.sqrt(n * (2 * q + d - d * d))


def tango():
    out = []
    for up, down, n in [(0, 0, 15), (1, 0, 15), (2, 5, 15), (15, 0, 15), (3, 3, 50), (0, 7, 50), (12, 9, 200), (1, 6, 200), (60, 100, 200)]:
        d = (up - down) / n
        lo = optimize.brentq(lambda x: tango_score(up, down, n, x) - Z, -1 + 1e-9, d - 1e-9 if d < 1 else 1 - 1e-9, xtol=1e-13)
        hi = 1.0 if up == n else optimize.brentq(lambda x: tango_score(up, down, n, x) + Z, d + 1e-9, 1 - 1e-9, xtol=1e-13)
        out.append(dict(up=up, down=down, n=n, lo=lo, hi=hi))
    return out


def mcnemars():
    return [dict(up=u, down=d, p=float(mcnemar([[5, u], [d, 5]], exact=True).pvalue)) for u, d in [(1, 0), (3, 3), (0, 6), (9, 2), (40, 61), (500, 420)]]


def holm(rng):
    p = np.concatenate([rng.uniform(0, 0.05, 6), rng.uniform(0, 1, 6), [0.01, 0.01]])
    return [dict(p=list(p), adjusted=list(multipletests(p, method="holm")[1]))]


def flips(rng):
    out = []
    for n in (2, 5, 12, 16, 40, 150):
        x = np.round(rng.normal(0.25, 1, n), 2)
        x[rng.uniform(size=n) < 0.2] = 0
        moved = x[x != 0]
        exact = len(moved) <= 16
        r = stats.permutation_test((moved,), np.mean, permutation_type="samples", n_resamples=np.inf if exact else 400_000, vectorized=False if exact else None, rng=rng)
        out.append(dict(x=list(x), p=float(r.pvalue), exact=exact))
    return out


def bootstrap_t(strata, rng, pairs, n_boot=200_000):
    k = len(strata)
    mean = np.mean([s.mean() for s in strata])
    se = np.sqrt(sum(s.var(ddof=1) / len(s) for s in strata)) / k
    above, var = np.zeros(n_boot), np.zeros(n_boot)
    for s in strata:
        for at in range(0, n_boot, 20_000):
            r = s[rng.integers(0, len(s), (20_000, len(s)))]
            above[at:at + 20_000] += (r.mean(1) - s.mean()) / k
            var[at:at + 20_000] += r.var(1, ddof=1) / len(s) / k**2
    t = above[var > 1e-20] / np.sqrt(var[var > 1e-20])
    if pairs:
        n = k * k / sum(1 / len(s) for s in strata)
        se = np.sqrt(se**2 + 2 / (n + 2)**2)
    hi, lo = np.quantile(t, [0.025, 0.975])
    return dict(strata=[list(s) for s in strata], pairs=pairs, mean=mean, lo=max(mean - lo * se, -1 if pairs else 0), hi=min(mean - hi * se, 1), se=se)


def bootstraps(rng):
    def graded(n):
        return np.round(np.where(rng.uniform(size=n) < 0.4, 1, rng.uniform(size=n)), 3)

    out = [bootstrap_t([graded(n)], rng, False) for n in (15, 50, 200)]
    out += [bootstrap_t([graded(n) for n in (20, 60, 35)], rng, False)]
    out += [bootstrap_t([np.round(graded(n) - graded(n), 3) for n in sizes], rng, True) for sizes in ((30,), (150,), (40, 25))]
    return out


def detectable():
    z = Z + stats.norm.ppf(0.8)
    out = []
    for n, m in [(15, 7), (50, 12), (200, 9), (200, 120)]:
        psi = m / n
        d = optimize.brentq(lambda d: d * np.sqrt(n) - Z * np.sqrt(psi) - stats.norm.ppf(0.8) * np.sqrt(max(0, psi - d * d)), 1e-9, z * np.sqrt(psi / n) + 1e-9, xtol=1e-14)
        out.append(dict(n=n, discordant=m, detectable=d))
    return out


def means(rng):
    out = []
    for _ in range(40):
        category, score = [], []
        for name, n in LONGBENCH.items():
            category += [name] * n
        category += ["not_averaged", "needle", "needle"]
        order = rng.permutation(len(category))
        category = [category[i] for i in order]
        score = [[float(x) for x in np.round(rng.uniform(size=8), rng.integers(1, 4))] for _ in category]
        percent = [round(100 * sum(s) / len(s), 2) if c != "needle" else 100 * sum(s) / len(s) for c, s in zip(category, score)]
        groups = {c: float(np.round(np.mean([p for p, k in zip(percent, category) if k == c]), 2)) for c in LONGBENCH}
        whole = float(np.round(np.mean([p for p, c in zip(percent, category) if c in LONGBENCH]), 2))
        needle = float(np.mean([p for p, c in zip(percent, category) if c == "needle"]))
        out.append(dict(category=category, score=score, percent=percent, groups=groups, longbench=whole, needle=needle))
    return out


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    args = argparse.ArgumentParser()
    args.add_argument("-o", default=os.path.join(here, "../fixtures/stats/stats.json"))
    rng = np.random.default_rng(3)
    warnings.simplefilter("ignore")
    data = dict(wilson=wilson(), tango=tango(), mcnemar=mcnemars(), holm=holm(rng), flips=flips(rng), bootstrap_t=bootstraps(rng), detectable=detectable(), means=means(rng))
    with open(args.parse_args().o, "w") as f:
        f.write("{\n" + ",\n".join(f'"{k}": [\n' + ",\n".join(json.dumps(x) for x in v) + "\n]" for k, v in data.items()) + "\n}\n")


main()
