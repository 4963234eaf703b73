"""How adapters are made from a user's base and data: one short file per published method, on top of TRL and PEFT.

`guidance` is SGFT's guidance model (arXiv 2412.09906), `answer` Sci-CoT's answer inference (arXiv 2308.04679). What
they share: `examples` reads data, `chat` turns it into tokens, `base` opens the model, `lora` says what is trained,
`run` is the directory of a training that can be interrupted, `trainer` the settings that all of them have.

`refine` is self-refine instruction tuning (arXiv 2405.00402), `process` Self-Iterative Process Feedback (arXiv
2412.08393). Both learn from a model's own answers: `sampling` draws them, `attempts` says which are right,
`step_labels` and `process_reward` how good their steps are, `pairs` which are preferred to which.
"""
