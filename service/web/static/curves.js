// A run's curves as they go on. What the server has thinned is thinned on by the server's rule (service/curves.py), so that a run looks the same
// while it is watched and afterwards.

export const POINTS = 1000;

// At most POINTS items of a series that grows: the first, each that is a whole number of strides from it, and the last.
class Thinned {
  constructor(kept, count) {
    Object.assign(this, { kept, count, stride: 1 });
    while (count - 1 > this.stride * (POINTS - 1)) this.stride *= 2;
  }

  add(item) {
    if (this.count && (this.count - 1) % this.stride) this.kept.pop(); // the last so far was kept only for being the last
    if (this.count > this.stride * (POINTS - 1)) {
      this.stride *= 2;
      this.kept = this.kept.filter((_, index) => index % 2 === 0);
    }
    this.count += 1;
    this.kept.push(item);
  }
}

// A noise scale as a run goes on: its sums of variance and of squared norm, and their ratio.
function addNoise(thinned, placed, variance, norm, [ratio, variances, norms]) {
  if (variance === null || norm === null) return;
  const before = thinned.kept.at(-1) ?? { [variances]: 0, [norms]: 0 };
  const sums = { [variances]: before[variances] + variance, [norms]: before[norms] + norm };
  thinned.add({ ...placed, ...sums, [ratio]: sums[norms] > 0 ? sums[variances] / sums[norms] : null });
}

export class Curves {
  constructor(series = { steps: [], num_steps: 0, noise: [], num_noise: 0, dual_noise: [], num_dual_noise: 0, evaluations: [], start: null }) {
    this.steps = new Thinned(series.steps, series.num_steps);
    this.noise = new Thinned(series.noise, series.num_noise);
    this.dualNoise = new Thinned(series.dual_noise, series.num_dual_noise);
    this.evaluations = series.evaluations;
    this.start = series.start ?? { device_seconds: 0, training_seconds: 0, world_size: 1 };
  }

  addStep(record) {
    const placed = this.placed(record);
    this.steps.add(placed);
    // A run measures the noise of the whole gradient, or of the norms alone.
    const trace = record.covariance_trace ?? record.norms_covariance_trace ?? null;
    const norm = record.gradient_norm_squared ?? record.norms_gradient_norm_squared ?? null;
    addNoise(this.noise, placed, trace, norm, ["gradient_noise_scale", "covariance_trace_sum", "gradient_norm_squared_sum"]);
    addNoise(this.dualNoise, placed, record.dual_variance ?? null, record.dual_norm_squared ?? null,
      ["dual_noise_scale", "dual_variance_sum", "dual_norm_squared_sum"]);
  }

  addEvaluation(record) {
    this.evaluations.push(this.placed(record));
  }

  placed(record) {
    const { device_seconds: before, training_seconds: began, world_size: workers } = this.start;
    return { ...record, device_seconds: before + (record.training_seconds - began) * workers };
  }
}

// Samples per second, or tokens. Args: seen: the field that counts them.
export function speeds(steps, seen) {
  // Over some steps each: single ones are told apart by the clock's grain more than by their speed.
  const every = Math.ceil(steps.length / 100);
  const some = steps.filter((_, index) => index % every === 0);
  return some.slice(1).map((now, index) => {
    const before = some[index];
    const seconds = now.training_seconds - before.training_seconds;
    return [now, seconds > 0 ? (now[seen] - before[seen]) / seconds : null];
  });
}
