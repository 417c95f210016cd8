from tests.benchmarks.send import run

run()
