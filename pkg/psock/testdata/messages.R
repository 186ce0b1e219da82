# Writes serialized objects one after the other, and what R itself takes each of
# them for: the facts that the scanner is tested against.
#
#   Rscript messages.R stream index        all objects, every format
#   Rscript messages.R stream index seeds  also small ones as files, for fuzzing
#
# A line of the index is: label, end offset, xdr, kind, success, elapsed seconds,
# final, tagged, future's result, text; separated by tabs.
options(keep.source = TRUE)
args <- commandArgs(trailingOnly = TRUE)
stream <- file(args[1], "wb")
index <- file(args[2], "w")
if (length(args) > 2) args[3] <- normalizePath(args[3])
setwd("/") # it becomes part of source references
end <- 0

is_string <- function(x) is.character(x) && length(x) == 1 && !is.na(x)

facts <- function(x) {
  f <- list(kind = "unknown", success = FALSE, elapsed = 0, final = FALSE, text = "", tagged = FALSE, future = FALSE)
  if (typeof(x) != "list" || length(x) == 0 || !is_string(x[[1]])) return(f)
  if (!x[[1]] %in% c("EXEC", "DONE", "VALUE")) return(f)
  f$kind <- x[[1]]
  if (f$kind == "EXEC") f$tagged <- !is.null(x$data$tag)
  if (f$kind != "VALUE") return(f)
  value <- x$value
  if (is_string(value) && is.null(attributes(value)) && nchar(value, "bytes") <= 32) f$text <- value
  f$future <- inherits(value, "FutureResult")
  f$success <- isTRUE(x$success)
  if (!is.null(x$time)) f$elapsed <- x$time[["elapsed"]]
  f$final <- identical(names(x), c("type", "value", "success", "time", "tag"))
  f
}

emit <- function(label, bytes) {
  writeBin(bytes, stream)
  end <<- end + length(bytes)
  # R < 4.3 writes a long pairlist in a loop but reads it recursively, and
  # overflows its stack.
  f <- facts(if (!startsWith(label, "long_pairlist")) suppressWarnings(unserialize(bytes)))
  line <- c(label, sprintf("%.0f", end), bytes[1] == charToRaw("X"), f$kind, f$success,
            sprintf("%.9f", f$elapsed), f$final, f$tagged, f$future, f$text)
  writeLines(paste(line, collapse = "\t"), index)
  if (length(args) > 2 && length(bytes) < 6000 && !grepl("-(2b|3x)$|^session|^pointer", label)) {
    writeBin(bytes, file.path(args[3], paste0(label, ".bin")))
  }
}

# Objects, as elements of expressions so that each is made when its turn comes.
self <- new.env()
self$self <- self
self$n <- 1:3
locked <- new.env(hash = FALSE)
locked$a <- "x"
attr(locked, "note") <- "with attributes"
lockEnvironment(locked, bindings = TRUE)
lazy <- new.env()
delayedAssign("promised", stop("not forced"), assign.env = lazy)
deep <- NULL
for (i in 1:400) deep <- list(deep, i)
deep_call <- quote(x)
for (i in 1:200) deep_call <- call("f", deep_call, i)
setClass("Point", representation(x = "numeric", y = "numeric", call = "call"))
setGeneric("area", function(shape, ...) standardGeneric("area"))
setMethod("area", "Point", function(shape, ...) 0)
Account <- setRefClass("Account", fields = list(balance = "numeric"),
                       methods = list(deposit = function(x) balance <<- balance + x))
source_function <- eval(parse(text = "function(x, ...) {\n  # a comment\n  x + 1\n}", keep.source = TRUE))
loops <- function(x, n = 10L, ...) {
  total <- 0
  for (i in seq_len(n)) while (total < i) { total <- total + x[[i]]; if (total > 5) break }
  g <- function(y) switch(y, a = , b = "two", c = { repeat break; "c" }, stop("no"))
  h <- function(z) { force(z); function() z$a$b[[1]] <- z }
  tryCatch(g(total), error = function(e) local({ e; ~ a + b }), finally = NULL)
  if (is.null(x)) quote(f(f(x), f(x))) else sapply(x, function(v) v^2)
}
same <- quote(a + b * (c - d))
repeated <- eval(substitute(function(x) { list(quote(S), quote(S), S, structure(quote(T), note = 1)) }, list(S = same)))
called <- compiler::cmpfun(function(x, ...) environment())
# No R function makes a weak reference; an item of that type with a header does.
weak <- unserialize(as.raw(c(0x58, 0x0a, 0,0,0,2, 0,4,2,2, 0,2,3,0, 0,0,0,23)))

objects <- expression(
  null = NULL, integers = c(1L, NA, 3L), doubles = c(1.5, NA, Inf), logical = c(TRUE, NA), complex = c(1+2i, NA),
  raw = as.raw(0:255), none = list(integer(), character(), list(), NULL, raw(), expression()),
  strings = c("a", NA, "", "\u00fcml\u00e4ut", "latin1"), latin1 = iconv("\u00fc", "UTF-8", "latin1"),
  long_string = strrep("x", 1.5e6), big_numbers = as.double(1:3e5) + 0.5, big_raw = raw(1e6),
  many_strings = paste("string", 1:30000), nested = list(a = 1, b = list(c = "x", d = list(NULL))),
  factor = factor(c("u", "v", "u")), frame = head(iris, 8), matrix = matrix(1:6, 2, dimnames = list(NULL, letters[1:3])),
  symbol = quote(x), call = quote(f(x, y = 2)(z)), formula = y ~ x + log(z), expression = expression(a + b, c),
  function_list = formals(function(a, b = 2, ...) NULL), pairlist = pairlist(a = 1, 2, b = "x"),
  long_pairlist = as.pairlist(as.list(1:1e5)), attr_pairlist = structure(pairlist(1, 2), note = "n"),
  deep = deep, deep_call = deep_call, closure = function(x) x + 1, builtin = sum, special = `if`,
  source = source_function, parsed = parse(text = "a <- 1 # c\nb(a)", keep.source = TRUE),
  compiled = compiler::cmpfun(loops), compiled_source = compiler::cmpfun(source_function),
  compiled_repeats = compiler::cmpfun(repeated), code_of_base = base::lapply, code = list(stats::lm, utils::head, base::tryCatch),
  compiled_expression = compiler::compile(quote({ for (i in 1:3) f(i, quote(g(h))) })),
  compiled_attributes = structure(compiler::compile(quote({ a + b; f(x) })), note = list(1, "x")),
  compiled_promise = called(a + b, c),
  env = self, locked = locked, promise = lazy, global = globalenv(), base = baseenv(), empty = emptyenv(),
  namespaces = list(asNamespace("stats"), baseenv(), asNamespace("base"), as.environment("package:utils"), asNamespace("stats")),
  environments = lapply(1:300, function(i) new.env()), pointer = stats:::C_rnorm,
  pointers = list(new("externalptr"), structure(new("externalptr"), class = "handle")), weak = list(weak, weak, 1),
  s4 = new("Point", x = 1, y = 2, call = quote(f())), s4_generic = area, s4_class = getClass("Point"), reference_class = Account$new(balance = 1),
  generator = Account, compact = 1:1e6, compact_small = list(1:10, 2:5 + 0), deferred = as.character(1:1000), sorted = sort(c(3, 1, 2) + rep(0, 300)),
  wrapped = structure(sort(as.double(1000:1)), names = as.character(1:1000)),
  condition = simpleError("failed", quote(f(x))), warning = tryCatch(warning("w"), warning = identity),
  error = try(stop("x"), silent = TRUE), date = list(Sys.time(), as.POSIXlt(0, origin = "1970-01-01", tz = "UTC"), Sys.Date()),
  session = sessionInfo(), model = lm(Sepal.Length ~ Species, iris), missing = quote(x[, 1]), dots = (function(...) environment())(a, b + 1),
  not_type = list(type = "OTHER", data = 1), type_na = list(NA_character_, 1), type_two = list(c("DONE", "x")), type_long = list(strrep("VALUE", 20)),
  closure_of_list = as.function(alist(x = , list(type = "DONE"))), body_is_list = as.function(list(list(type = "DONE"))),
  value_short = list(type = "VALUE", value = "v", success = TRUE), value_attr = list(type = structure("VALUE", note = 1), value = structure("v", class = "k"), success = FALSE),
  relayed = list(type = "VALUE", value = simpleMessage("progress"), success = TRUE)
)
for (version in 2:3) for (xdr in c(TRUE, FALSE)) for (name in names(objects)) {
  bytes <- suppressWarnings(serialize(eval(objects[[name]]), NULL, xdr = xdr, version = version))
  emit(sprintf("%s-%d%s", name, version, if (xdr) "x" else "b"), bytes)
}

# Real messages: parallel writes them to a connection in memory. The worker's
# side answers to what a node of this class receives.
node <- function(class, message = NULL) structure(list(con = rawConnection(raw(0), "wb"), message = message), class = c("test_node", class))
registerS3method("recvData", "test_node", function(node) node$message, envir = asNamespace("parallel"))
sent <- function(node) { bytes <- rawConnectionValue(node$con); close(node$con); bytes }
exec <- function(class, ...) { n <- node(class); parallel:::sendCall(n, ...); sent(n) }
done <- function(class) { n <- node(class); parallel:::postNode(n, "DONE"); sent(n) }
answer <- function(class, fun, args = list(), tag = NULL) {
  n <- node(class, list(type = "EXEC", data = list(fun = fun, args = args, return = TRUE, tag = tag), tag = NULL))
  parallel:::workCommand(n)
  sent(n)
}
for (class in c("SOCKnode", "SOCK0node")) {
  emit(paste0("exec-", class), exec(class, function(x) x + 1, list(1:10), tag = 3L))
  emit(paste0("exec_tag_list-", class), exec(class, function(x) x, list(list(1, NULL)), tag = list(1, "a")))
  emit(paste0("exec_tag_env-", class), exec(class, function(x) x, list(self), tag = self))
  emit(paste0("exec_no_tag-", class), exec(class, c, list(list(list(1), NULL), tag = 1)))
  emit(paste0("exec_big-", class), exec(class, loops, list(x = runif(1e5), y = self)))
  emit(paste0("done-", class), done(class))
  emit(paste0("answer-", class), answer(class, function(x) { Sys.sleep(0.02); x }, list(1:10), tag = 7))
  emit(paste0("answer_null-", class), answer(class, function() NULL))
  emit(paste0("grmall-", class), answer(class, function() "future-grmall"))
  emit(paste0("text32-", class), answer(class, function() strrep("t", 32)))
  emit(paste0("text33-", class), answer(class, function() strrep("t", 33)))
  emit(paste0("text0-", class), answer(class, function() ""))
  emit(paste0("text_na-", class), answer(class, function() NA_character_))
  emit(paste0("text_named-", class), answer(class, function() c(a = "x")))
  emit(paste0("texts-", class), answer(class, function() c("x", "y")))
  emit(paste0("failed-", class), answer(class, function() stop("no such thing")))
  emit(paste0("answer_list-", class), answer(class, function() list("DONE", list(type = "EXEC"), TRUE, 1:3)))
  emit(paste0("future-", class), answer(class, function() future:::FutureResult(value = list(x = 1, "FutureResult"), started = Sys.time())))
  emit(paste0("future_late-", class), answer(class, function() structure(list(a = 1), note = list("x", 1:3, quote(f(x))), class = "FutureResult")))
  emit(paste0("future_within-", class), answer(class, function() list(future:::FutureResult(value = 1), "FutureResult")))
  emit(paste0("future_string-", class), answer(class, function() c(FutureResult = "FutureResult")))
  emit(paste0("named_list-", class), answer(class, function() structure(as.list(1:1e5), names = paste("name", 1:1e5))))
  emit(paste0("answer_big-", class), answer(class, function() rnorm(1e5)))
  emit(paste0("answer_code-", class), answer(class, function() list(compiler::cmpfun(loops), self)))
}
close(stream)
close(index)
