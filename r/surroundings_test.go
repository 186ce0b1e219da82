package r_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// R translates its messages; what the profile concludes does not depend on the language. R in German
// has none of the English words for a refused connection, or for too many of them.
func TestOtherLanguages(t *testing.T) {
	german := inGerman(t)
	got, messages := run(t, nobody(t), `out(conditionMessage(tryCatch(sqrt("a"), error = identity)) != "non-numeric argument to mathematical function", n() >= 1)`, german...)
	wantFields(t, got, "TRUE", "TRUE")
	if strings.Count(messages, "(cannot connect)") != 1 {
		t.Errorf("R says %q of a refused connection", messages)
	}
	got, messages = run(t, serve(t, "7").address(), `invisible(c(parallelly::availableConnections(), parallelly::availableCores())); cons <- list()
		try(repeat cons[[length(cons) + 1L]] <- rawConnection(as.raw(42)), silent = TRUE)
		out(n() >= 1)`, german...)
	wantFields(t, got, "TRUE")
	if !strings.Contains(messages, "connections are in use") {
		t.Errorf("R says %q when no connection is free", messages)
	}
}

// inGerman is the environment in which R speaks German. The locale is C.UTF-8 by another name: in glibc's own C.UTF-8
// newer ones ignore LANGUAGE, and no other locale need be installed.
func inGerman(t *testing.T) []string {
	t.Helper()
	locales := t.TempDir()
	if err := os.CopyFS(filepath.Join(locales, "xx_XX.utf8"), os.DirFS("/usr/lib/locale/C.utf8")); err != nil {
		t.Fatal(err)
	}
	return []string{"LOCPATH=" + locales, "LC_ALL=xx_XX.UTF-8", "LANGUAGE=de"}
}

// RStudio saves the options of a session that it suspends, functions included, and gives them to the
// session's successor, whose hooks are its own: a plan is announced as a plan all the same.
func TestRestoredOptions(t *testing.T) {
	r := serve(t, "2")
	run(t, r.address(), `suppressMessages(library(future)); options(warn = -1)
		options(unserialize(serialize(options()[c("parallelly.availableWorkers.custom", "psock.once")], NULL)))
		try(plan(cluster, port = 11567, manual = TRUE, quiet = TRUE, timeout = 1, tries = 1), silent = TRUE)`)
	if said := r.said(t, 1); !slices.Equal(said, []string{"POST futures 11567", "end"}) {
		t.Errorf("announced %q", said)
	}
}

// A profile that is read in the global environment uses R's functions, not the user's of the same name.
func TestUsersFunctions(t *testing.T) {
	got, messages := run(t, serve(t, "7").address(), `source("`+profile(t)+`")
		sub <- setdiff <- grepl <- Filter <- function(...) stop("the user's"); out(length(getOption("parallelly.availableWorkers.custom")()))`,
		"R_PROFILE=/dev/null")
	wantFields(t, got, "7")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// R may have no site profile at all, or one that this user cannot read.
func TestNoSiteProfile(t *testing.T) {
	for name, site := range map[string]string{"missing": filepath.Join(t.TempDir(), "missing"), "not a file": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			got, messages := run(t, serve(t, "7").address(), `source("`+profile(t)+`"); out(n(), length(getHook(packageEvent("callr", "onLoad"))))`,
				"R_PROFILE="+site)
			wantFields(t, got, "7", "1")
			if strings.Contains(messages, "psock-runtime") {
				t.Errorf("R says %q", messages)
			}
		})
	}
}

// A session may leave the folder that PSOCK_PROFILE counts from.
func TestRelativeProfile(t *testing.T) {
	text, err := os.ReadFile(profile(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine.R"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	got, messages := run(t, serve(t, "7").address(), inChildren+`setwd("`+dir+`"); source("mine.R"); setwd(tempdir()); out(child("--vanilla"), callr::r(count))`,
		"R_PROFILE=/dev/null", "PSOCK_PROFILE=mine.R")
	wantFields(t, got, "7", "7")
	if messages != "" {
		t.Errorf("R says %q", messages)
	}
}

// What psock.once() cannot do it says in words of its own.
func TestOnceWithoutRendezvous(t *testing.T) {
	for name, tc := range map[string]struct{ api, want string }{
		"refused": {nobody(t), "(cannot connect)"},
		"off":     {"off", `(PSOCK_RENDEZVOUS_API is "off")`},
		"garbage": {serve(t, "many").address(), "not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, messages := run(t, tc.api, `try(getOption("psock.once")())`)
			if !strings.HasPrefix(messages, "Error : psock.once(): ") || !strings.Contains(messages, tc.want) {
				t.Errorf("R says %q, want %q", messages, tc.want)
			}
		})
	}
}

// R connects to the remainder of a port that is too large.
func TestPortThatIsTooLarge(t *testing.T) {
	unreachable(t, "127.0.0.1:65536", "not of the form HOST:PORT")
}
