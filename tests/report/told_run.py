"""A process that tells a whole short run to a report on its own standard output. Argument: the run's folder."""

import sys
import time
from pathlib import Path

from vim_train.config.schema import TrainConfig, WandbMode
from vim_train.report import open_report


def main(run_dir: Path, mode: str, pause: float) -> None:
    cfg = TrainConfig()
    cfg.run.name = "told"
    cfg.logger.wandb.mode = WandbMode[mode]
    report = open_report(cfg, {"seed": 0}, run_dir)
    try:
        report.start({"device": "cpu", "data": "a value that is rather long, so that it has to be folded " * 3})
        report.start_training(20, 10)
        for step in range(1, 21):
            time.sleep(pause)
            report.progress(step, 2.0 / step, 1e-3, 128.0, 0.02, 512.0)
            report.train(step, step // 10, {"train/loss": 2.0 / step})
            if step % 10 == 0:
                report.phase("evaluating")
                report.eval(step, step // 10, {"eval/loss": 1.0, "eval/top1": 50.0 + step, "ema/top1": 60.0})
                print("a line from elsewhere", flush=True)
        report.finish({}, ["vim-eval checkpoint=runs/told"])
    finally:
        report.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
