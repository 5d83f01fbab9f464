"""Arrays in, measurements and estimates out. Pure numpy and scipy: no model, no file, no task.

estimate     the shape in which a number reaches a report: with interval and sample size
measurement  a capability with each cluster's contribution to its error: differences are paired
means        mean and slope, clustered
intervals    proportions: Clopper–Pearson
paired       McNemar, smallest detectable excess, equivalence
flips        samples on which two conditions disagree: exact test, detectable difference
elo          ratings by maximum likelihood, draws modelled, clustered by opening pair
selection    choosing a rung, Holm
sequential   looks while data come in: levels at which an audit may stop
game_signs   black-box signs of a player who throws games
answer_signs black-box signs of a solver who gets questions wrong on purpose
detection    how well a detector tells positives from negatives: rates, AUROC, quantiles
"""
