"""`probe bench`: how long exact statistics take beside the forward pass they describe; a wrong result gets no time.

Modules: `options` (what is asked), `case` (tensors and mask patterns), `rows` (statistics), `peers` (forward passes of others),
`gate` (float64 first), `clock` (time and memory), `floor` (the device's own rates), `summary` (exponents, ratios, goals), `run`
(the loop), `show` (tables), `snapshot` (capture beside a model's forward). Nothing here needs plotly, zarr or xarray but the
figure and the capture, so `python -m probe.dashboard.bench --json FILE` runs where only torch, triton, numpy and rich are.

The JSON document, schema 1; every time is in seconds, every size in bytes, no number is infinite or NaN (null instead):

- `schema`, `created` (ISO 8601, UTC), `partial` (bool), `why_partial` (null, or what ended the run early), `wall_seconds`
- `device`: `type`, `name`, `driver`, `capability`, `multiprocessors`, `threads`, `memory_bytes` (null where it has no meaning)
- `versions`: of attention-probe, python, torch, cuda, cudnn, triton, flash-colsum (null: not installed)
- `shape`: `batch`, `heads`, `key_heads`, `head_size`, `dtype`; `lengths`, `patterns`: of the run
- `rates`: measured `matmul_flops` per second in the run's dtype and `exps` per second, `exps_from` (how it is known)
- `gate`: a list of {`pattern`, `n`, `name`, `statistic`, `error`, `allowed`}: float64 against what is timed below
- `measurements`: a list of {`pattern`, `n`, `name`, `label`, `kind` ("statistic" or "peer"), `seconds` (median), `quartiles`
  [2], `repeats`, `first_seconds` (the first call, compilation included), `extra_bytes` (peak beyond the inputs, the result
  included), `pairs` (query-key pairs of one head that count), `flops`, `tflops`, `floor_seconds`, `ratio` {peer: time ÷ its}}
- `skipped`: a list of {`pattern`, `n` (null: every length), `name`, `why`}
- `fits`: a list of {`pattern`, `name`, `exponent`, `lengths`}: time ~ N^exponent over the longest lengths
- `goals`: a list of {`goal`, `value`, `limit`, `at_least`, `met` (true, false, or null: not comparable here), `why`, `at` (of a
  ratio to a forward pass: {`pattern`, `n`, `name`, `peer`}; null for other goals)}
- `capture`: {`model`, `n`, `stats`, `forward_seconds`, `capture_seconds`, `ratio`} or null; then `skipped` says why

`flops` counts 2 · head size · heads · pairs for each product that the result needs (one QKᵀ for a pass, another product for an
output), and pairs are those that the mask lets through, not N².
"""
