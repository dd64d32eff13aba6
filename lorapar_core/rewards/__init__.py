"""The rewards of GRPO: what one completion earns, weighted by `grpo.rewards`.

A reward is a plain function (completion, reference, format) -> number. The recipe names it by its
name in `registry.REWARDS`, or by an import path, `package.module:function`. 0 means a wrong answer,
never a reward that failed: one that raises, or gives what is no finite number, stops the run.

`paper` holds the paper's five. The paper doesn't say what it rewarded beyond GSM8K: `free_form`,
`code` and `execution` are our choice, and the report says so where they are used.
"""
