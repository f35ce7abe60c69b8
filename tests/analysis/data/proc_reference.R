# Reference numbers for AUROC, DeLong's variance, interval and paired test, by the R package pROC.
#
#   Rscript proc_reference.R > proc_reference.json
#
# Data sets are drawn here, with many ties, from fixed seeds, so that the file repeats to the last
# digit on the same versions of R and pROC (stated in the output). 17 digits keep doubles exact.
suppressPackageStartupMessages(library(pROC))
RNGkind("Mersenne-Twister", "Inversion", "Rejection")

area <- function(y, score) {
  curve <- roc(y, score, levels = c(0, 1), direction = "<", quiet = TRUE)
  bounds <- suppressWarnings(ci.auc(curve, method = "delong", conf.level = 0.95))
  list(curve = curve, auroc = as.numeric(auc(curve)),
       variance = suppressWarnings(var(curve, method = "delong")), ci = as.numeric(bounds)[c(1, 3)])
}

number <- function(x) if (is.finite(x)) sprintf("%.17g", x) else "null"
vector <- function(x) paste0("[", paste(vapply(x, number, ""), collapse = ", "), "]")

entry <- function(name, y, a, b) {
  one <- area(y, a)
  other <- area(y, b)
  test <- suppressWarnings(roc.test(one$curve, other$curve, method = "delong", paired = TRUE))
  side <- function(s) sprintf("{\"auroc\": %s, \"variance\": %s, \"ci\": %s}",
                              number(s$auroc), number(s$variance), vector(s$ci))
  sprintf(paste0("{\"name\": \"%s\",\n \"y\": %s,\n \"a\": %s,\n \"b\": %s,\n",
                 " \"area_a\": %s,\n \"area_b\": %s,\n \"z\": %s, \"p\": %s}"),
          name, vector(y), vector(a), vector(b), side(one), side(other),
          number(as.numeric(test$statistic)), number(as.numeric(test$p.value)))
}

drawn <- function(name, seed, n, share, levels, signal, noise) {
  set.seed(seed)
  y <- c(0, 0, 1, 1, as.integer(runif(n - 4) < share))
  hidden <- rnorm(n) + signal * y
  a <- round(levels * pnorm(hidden + noise * rnorm(n)))
  b <- round(levels * pnorm(0.7 * hidden + noise * rnorm(n)))
  entry(name, y, a, b)
}

sets <- c(
  drawn("n12", 1, 12, 0.5, 4, 1.0, 0.5),
  drawn("n15", 2, 15, 0.4, 3, 0.5, 0.5),
  drawn("n20", 3, 20, 0.5, 6, 1.0, 0.3),
  drawn("n24 few events", 4, 24, 0.05, 10, 0.8, 0.5),
  drawn("n30", 5, 30, 0.3, 5, 0.7, 0.5),
  drawn("n36 few without", 6, 36, 0.95, 10, 0.8, 0.5),
  drawn("n40 two levels", 7, 40, 0.5, 1, 1.0, 0.5),
  drawn("n50", 8, 50, 0.5, 20, 0.0, 0.5),
  drawn("n60", 9, 60, 0.2, 10, 1.5, 0.5),
  drawn("n75", 10, 75, 0.35, 8, 0.8, 1.0),
  drawn("n90 worse than chance", 11, 90, 0.4, 12, -0.8, 0.5),
  drawn("n100", 12, 100, 0.5, 100, 0.8, 0.4),
  drawn("n120", 13, 120, 0.12, 15, 1.0, 0.5),
  drawn("n150", 14, 150, 0.5, 2, 0.6, 0.5),
  drawn("n200", 15, 200, 0.25, 30, 0.9, 0.6),
  drawn("n250", 16, 250, 0.5, 10, 0.5, 0.2),
  drawn("n300", 17, 300, 0.1, 50, 1.1, 0.7),
  drawn("n495", 18, 495, 0.123, 100, 1.3, 0.6),
  drawn("n600", 19, 600, 0.5, 20, 0.7, 0.8),
  drawn("n800", 20, 800, 0.5, 1000, 0.8, 0.5)
)
set.seed(21)
y <- rep(c(0, 1), c(25, 15))
score <- round(10 * pnorm(rnorm(40) + y))
nearly <- ifelse(seq_along(y) == 30, 2, 1)  # all equal but one
sets <- c(sets,
  entry("identical predictions", y, score, score),
  entry("same ranks, other scale", y, score, exp(score / 3)),
  entry("nearly constant", y, nearly, score),
  entry("perfect separation", y, score + 100 * y, score),
  entry("perfectly wrong", y, score - 100 * y, score),
  entry("constant", y, rep(3, 40), score),
  entry("mirror image", y, score, -score)
)
cat(sprintf("{\"R\": \"%s\", \"pROC\": \"%s\", \"script\": \"proc_reference.R\",\n\"sets\": [\n%s\n]}\n",
            paste(R.version$major, R.version$minor, sep = "."), packageVersion("pROC"),
            paste(sets, collapse = ",\n")))
