# The task with mrgsolve: Rscript mrgsolve.R MODEL.cpp RECORDS.csv SHARED.csv OUT CORES SECONDS RTOL...
# RECORDS.csv is a data set, a row an event with the parameters that differ; SHARED.csv holds name and value of the others.
# For every tolerance writes OUT_<i>.csv (patients by visits: count, then concentration) and prints one line:
# tolerance, seconds of the fastest call (processor seconds on one core, wall seconds on several), seconds of the build.
suppressPackageStartupMessages(library(mrgsolve))
args <- commandArgs(trailingOnly = TRUE)
cores <- as.integer(args[5])
enough <- as.numeric(args[6])
records <- read.csv(args[2])
shared <- read.csv(args[3])

build <- system.time({
  model <- mread("mrgsolve", project = dirname(args[1]), soloc = tempdir(), quiet = TRUE)
})[["elapsed"]]
model <- param(model, setNames(as.list(shared$value), shared$name))

# One contiguous share of the patients a core; a data set that needs no more checks in the timed call.
share <- function(id) ceiling(id / max(id) * cores)
parts <- lapply(split(records, share(records$ID)), function(part) valid_data_set(part, model))

solve <- function(part, tuned) {
  out <- mrgsim_q(tuned, part, output = "df")
  out[part[, "visit"] == 1, c("P", "C_nM")]
}

for (i in seq_along(args[-(1:6)])) {
  rtol <- as.numeric(args[6 + i])
  tuned <- update(model, rtol = rtol, atol = 0.1 * rtol, maxsteps = 100000)
  run <- function() {
    if (cores == 1) list(solve(parts[[1]], tuned)) else parallel::mclapply(parts, solve, tuned, mc.cores = cores)
  }
  found <- do.call(rbind, run())
  clock <- if (cores == 1) c("user.self", "sys.self") else "elapsed"
  best <- Inf
  spent <- 0
  while (spent < enough) {
    last <- sum(system.time(run())[clock])
    best <- min(best, last)
    spent <- spent + last
  }
  write.csv(found, sprintf("%s_%d.csv", args[4], i), row.names = FALSE)
  cat(args[6 + i], best, build, "\n")
}
