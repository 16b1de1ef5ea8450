"""Rounds: who trains, what is sent, what is summed, what is kept. Knows numpy only; torch comes in through a trainer.

policy.plan ─► transport.exchange (begin ─► trainer ─► finish ─► process) ─► apply_round (admit ─► add ─► close)
                                                                                    └─► on_round (checkpoint)
"""
