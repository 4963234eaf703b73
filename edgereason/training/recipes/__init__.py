"""How adapters are made from a user's base and data: one short file per published method, on top of TRL and PEFT.

`guidance` is SGFT's guidance model (arXiv 2412.09906), `answer` Sci-CoT's answer inference (arXiv 2308.04679), both
`supervised`. `self_refine` is self-refine instruction tuning (arXiv 2405.00402), `process_feedback` Self-Iterative
Process Feedback (arXiv 2412.08393). These two learn from a model's own answers, which `edgereason.training.sampling`
samples: `step_labels` and `process_reward` say how good their steps are, `preference_pairs` which answers are preferred
to which.
"""
