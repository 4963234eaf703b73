"""Making training data: guidances that a teacher writes, of which only those are kept that a student should learn from.

`teacher` writes, `leaks` and `duplicates` say what is not kept, `writing` is the file, `conversion` brings public data
sets into the form of training data.
"""
