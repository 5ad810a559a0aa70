"""The claims of the papers, put to the test on models that fit a laptop: `make claims`, docs/claims.md.

finding.py       one row of the page: a claim and its place, what it predicts, what was measured, the verdict
cells.py         measurements that are kept, so that a script that was stopped goes on; answers of the tiny models

convergence.py   ETS: energies against K, distance against M, K and steps, votes against N, an error estimate of each step
budget.py        ETS: candidates before rollouts, steps, temperature, the cap; the vote beside it
proposals.py     ETS-IS: rollouts of graded proposals, overlap, corrected energies, accuracy for its cost
signals.py       ETS: rewards without a verifier, and answers that are read badly
summaries.py     ETS: agreement without answers, on summaries by a real model; its runs take an hour and are kept
mixing.py        QAlign: acceptance, burn-in, R̂
shift.py         QAlign: problems with a redundant clause
posteriors.py    of answers that are given 90 %, how many are right
table.py         ETS: Table 1 in miniature, by a decoder and a masked model
pair_runs.py     runs of a real pair of models, hours long; pair.py makes claims of them, choices.py chooses among its plain draws
elsewhere.py     claims of the papers whose figures other scripts of reproduce/ have measured
ours.py          claims of ours whose figures other scripts have measured: weights, chains, votes, stopping, learned values

page.py          docs/claims.md and its figure
every.py         all of it, with times
"""
