"""Published medical exams, asked by log-likelihood as lm-evaluation-harness asks them. pipeline imports from here."""
