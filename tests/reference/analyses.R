# Answers of R packages to three analyses, as TOML: Rscript tests/reference/analyses.R > tests/reference/analyses.toml
suppressPackageStartupMessages({library(nlme); library(metafor); library(mice)})
folder <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
line <- function(name, x) cat(name, " = ", if (length(x) > 1) "[", paste(sprintf("%.12g", x), collapse = ", "), if (length(x) > 1) "]", "\n", sep = "")
cat("# Written by analyses.R: R ", paste(R.version$major, R.version$minor, sep = "."), ", nlme ", format(packageVersion("nlme")),
    ", metafor ", format(packageVersion("metafor")), ", mice ", format(packageVersion("mice")), "\n", sep = "")

wide <- read.csv(file.path(folder, "repeated_log_counts.csv"))
visits <- grep("^day_", names(wide), value = TRUE)
long <- do.call(rbind, lapply(seq_along(visits), function(v)
  data.frame(wide[c("id", "treated", "stratum", "log_baseline")], visit = v, y = wide[[visits[v]]])))
long <- long[!is.na(long$y), ]
long <- long[order(long$id, long$visit), ]
long$week <- factor(long$visit)
fit <- gls(y ~ 0 + week + week:(treated + log_baseline + factor(stratum)), long, method = "REML",
           correlation = corSymm(form = ~ visit | id), weights = varIdent(form = ~ 1 | week),
           control = glsControl(tolerance = 1e-12, msTol = 1e-14, maxIter = 500, msMaxIter = 1000, opt = "nlminb"))
effect <- paste0("week", seq_along(visits), ":treated")
cat("\n[gls] # treatment at each visit; sd and correlations of the visits\n")
line("estimate", coef(fit)[effect])
line("se", sqrt(diag(vcov(fit)))[effect])
line("sd", sigma(fit) * coef(fit$modelStruct$varStruct, unconstrained = FALSE, allCoef = TRUE)[levels(long$week)])
line("correlation", coef(fit$modelStruct$corStruct, unconstrained = FALSE))

y <- c(9, 3, 22); n <- c(12, 5, 30); y0 <- c(3, 0, 13); n0 <- c(9, 6, 28)
risk <- rma.mh(ai = y, n1i = n, ci = y0, n2i = n0, measure = "RD")
odds <- rma.mh(ai = y, n1i = n, ci = y0, n2i = n0, measure = "OR", correct = FALSE)
cat("\n[mantel_haenszel] # y of n against y0 of n0 in three strata\n")
for (name in c("y", "n", "y0", "n0")) line(name, get(name))
line("risk_difference", risk$beta); line("risk_difference_se", risk$se)
line("log_odds_ratio", odds$beta); line("log_odds_ratio_se", odds$se); line("cmh", odds$MH)

estimates <- c(0.51, 0.62, 0.47, 0.70, 0.55); variances <- c(0.04, 0.05, 0.045, 0.042, 0.048)
cat("\n[rubin] # five imputations, 40 degrees of freedom of the complete data\n")
line("estimates", estimates); line("variances", variances)
pooled <- pool.scalar(estimates, variances, n = 42, k = 2)
line("estimate", pooled$qbar); line("variance", pooled$t); line("df", pooled$df)
