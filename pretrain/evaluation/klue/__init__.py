"""KLUE's NLI, STS and NER as tasks of lm-eval, which lacks them: YAML files and what they call.

They read the form of the hub's `klue/klue` (Park et al. 2021, https://arxiv.org/abs/2105.09680). KLUE
judges fine-tuned encoders; here a language model is asked, so the metrics are KLUE's own (accuracy;
Pearson's r and F1; entity macro F1) and the figures are not those of its leaderboard.
"""
