"""The main job, end to end: data, model, rounds, evaluation, guarded answers, traces. safety -> HERE -> cli."""
