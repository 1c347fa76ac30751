# ruff: noqa: E501 - a case is one line, whatever its length
"""Template cases that are rendered by our engine and by real helm. One a line: what stands here is a template's text.

`VALUES` are the values of all of them.
"""

from __future__ import annotations

from meltem.objects import JsonObject

VALUES: JsonObject = {
    "s": "hello", "empty": "", "num": 7, "big": 1000000, "neg": -3, "f": 2.5, "tiny": 0.0000012, "yes": True, "no": False,
    "none": None, "list": ["b", "a", "c"], "nums": [3, 1, 2], "mixed": [1, "two", True, None, 3.5, {"k": "v"}],
    "map": {"a": 1, "b10": "x", "b2": "y", "Z": [1, 2], "nested": {"deep": {"er": "found"}}}, "emptyList": [],
    "emptyMap": {}, "multi": "line one\nline two\n", "trail": "ends with space ", "unicode": "héllo wörld ☃",
    "tricky": ["yes", "no", "null", "~", "1", "1.5", "0x1f", "1e3", "true", "on", "2001-01-01", "1:30", ":", "- a",
               "a: b", "#c", "a #b", "'q'", '"dq"', "*x", "&x", "!t", "%p", "@a", "`b", "", " lead", "trail ", "=", "<<",
               "1_000", "0o7", "012", "+1", "-", "--", "?", "? a", "{a}", "[a]", "a,b", "|", ">", "x\ty", "\t", "a\\b",
               ".5", "5.", ".inf", "0b1", "y", "N", "é", "a:b", "a:", "12:30:45", "1.2.3", "v1", "1e", "e1"],
    "long": "the quick brown fox jumps over the lazy dog and then runs all the way back home again because it can",
    "semver": "1.27.3-rc.1+build5", "yaml": "a: 1\nb: [x, z]\n", "json": '{"q": [1, 2.5, "z"], "t": true}',
    "html": "<a href=\"x\">'&'</a>", "path": "/etc/istio/proxy.yaml", "url": "https://u:p@host.example:8443/a/b?x=1#frag",
}  # fmt: skip

_PLAIN = r"""
{{ .Values.s }}|{{- .Values.s -}}|{{ .Values.s }}
{{/* gone */}}a{{- /* gone */ -}} b
{{ 1 }} {{ 1.5 }} {{ 0x10 }} {{ 1e3 }} {{ 'a' }} {{ true }} {{ "q\t\"x\"" }} {{ `raw\n` }} {{ 1_000 }} {{ 0b11 }} {{ 0o17 }} {{ -4 }}
{{ .Values.num }} {{ .Values.big }} {{ .Values.f }} {{ .Values.tiny }} {{ .Values.neg }} {{ .Values.none }} {{ .Values.nope }}
{{ .Values.list }} {{ .Values.map }} {{ .Values.mixed }} {{ .Values.emptyMap }} {{ .Values.emptyList }}
{{ if .Values.yes }}t{{ else }}f{{ end }}{{ if .Values.no }}t{{ else if .Values.num }}n{{ else }}f{{ end }}
{{ if .Values.empty }}1{{ end }}{{ if .Values.emptyList }}2{{ end }}{{ if .Values.none }}3{{ end }}{{ if 0 }}4{{ end }}{{ if 0.0 }}5{{ end }}{{ if "x" }}6{{ end }}
{{ with .Values.map }}{{ .a }}{{ $.Values.s }}{{ else }}no{{ end }}{{ with .Values.none }}x{{ else }}none{{ end }}
{{ with .Values.none }}a{{ else with .Values.s }}b{{ . }}{{ else }}c{{ end }}
{{ range .Values.list }}[{{ . }}]{{ else }}empty{{ end }}{{ range .Values.emptyList }}x{{ else }}empty{{ end }}
{{ range $i, $e := .Values.list }}{{ $i }}={{ $e }},{{ end }}{{ range $k, $v := .Values.map }}{{ $k }}:{{ $v }};{{ end }}
{{ range $e := .Values.list }}{{ if eq $e "a" }}{{ continue }}{{ end }}{{ if eq $e "c" }}{{ break }}{{ end }}{{ $e }}{{ end }}
{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}{{ range .Values.none }}x{{ else }}nil{{ end }}
{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ $x }}{{ $y }}{{ end }}{{ $x }}{{ $x := 9 }}{{ $x }}
{{ define "inner" }}<{{ . }}>{{ end }}{{ template "inner" .Values.s }}{{ template "inner" }}{{ include "inner" 5 }}
{{ block "blk" .Values.s }}B{{ . }}{{ end }}
{{ (index .Values.map "nested").deep.er }} {{ (dict "a" (dict "b" 1)).a.b }} {{ .Values.map.nested.deep }}
{{ printf "%d|%5d|%-5d|%05d|%x|%X|%o|%b|%c|%q|%U" 42 42 42 42 255 255 8 5 65 65 9731 }}
{{ printf "%s|%10s|%-10s|%.2s|%q|%x|%v|%T" "abc" "abc" "abc" "abc" "a\"b" "abc" "abc" "abc" }}
{{ printf "%f|%.2f|%8.3f|%e|%g|%v|%T" 3.14159 3.14159 3.14159 31415.9 1e21 1e21 1.5 }}
{{ printf "%v|%v|%v|%t|%5t" .Values.list .Values.map .Values.none true false }}
{{ printf "%d %s %v" 1 }}|{{ printf "%d" "x" }}|{{ printf "%d" 1 2 }}|{{ printf "%!" }}|{{ printf "%z" 1 }}|{{ printf "100%%" }}
{{ printf "%[2]d %[1]d" 1 2 }}|{{ printf "%*d" 5 42 }}|{{ printf "%+d" 5 }}|{{ printf "% d" 5 }}|{{ printf "%#x" 255 }}|{{ printf "%#v" "a" }}
{{ printf "%s" .Values.num }}|{{ printf "%d" .Values.num }}|{{ printf "%v" .Values.big }}|{{ printf "%.0f" .Values.big }}|{{ printf "%s" .Values.list }}|{{ printf "%d" .Values.nums }}
{{ print 1 2 "a" "b" 3 4 }}|{{ println "a" 1 }}|{{ print .Values.none .Values.s }}
{{ eq 1 1 }} {{ eq "a" "b" "a" }} {{ ne 1 2 }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt "b" "a" }} {{ ge 1.5 1.5 }} {{ eq .Values.none nil }} {{ eq .Values.num 7.0 }}
{{ and 1 0 2 }} {{ or 0 "" "x" }} {{ not 1 }} {{ and true .Values.s }} {{ or .Values.none .Values.no }}
{{ len .Values.s }} {{ len .Values.list }} {{ len .Values.map }} {{ len .Values.unicode }} {{ index .Values.list 1 }} {{ index .Values.map "a" }} {{ index .Values.mixed 5 "k" }}
{{ html .Values.html }} {{ js .Values.html }} {{ urlquery .Values.html "é" }}
{{ .Values.s | upper | quote }} {{ .Values.s | printf "%s-%s" "a" }} {{ "a" | printf "%s" | len }}
{{ slice .Values.list 1 }} {{ slice .Values.list 0 2 }} {{ .Values.s | trunc 2 }} {{ .Values.s | trunc -2 }} {{ trunc 99 "x" }}
{{ toYaml .Values.map }}
{{ toYaml .Values.mixed }}
{{ toYaml .Values.tricky }}
{{ toYaml .Values.multi }}|{{ toYaml .Values.trail }}|{{ toYaml .Values.unicode }}|{{ toYaml .Values.none }}|{{ toYaml .Values.emptyMap }}|{{ toYaml .Values.emptyList }}
{{ toYaml (dict "m" .Values.multi "t" "a\n\nb" "u" "no newline\nat end" "w" "  lead\nx" "x" "\n" "y" "a \nb" "z" "t\n\n") }}
{{ toYaml (dict "long" .Values.long "l2" (list .Values.long) "l3" (printf "%s: %s" .Values.long .Values.long)) }}
{{ toYaml (dict "1" "a" "10" "b" "2" "c" "true" "d" "a-b" 1 "a.b" 2 "aB" 3 "_" 4 "é" 5 "a1" 1 "a01" 2 "b/c" 3) }}
{{ toYaml .Values.big }} {{ toYaml .Values.f }} {{ toYaml .Values.tiny }} {{ toYaml 1e21 }} {{ toYaml 1e20 }} {{ toYaml true }} {{ toYaml "true" }} {{ toYaml 12 }}
{{ .Values.map | toYaml | nindent 2 }}
{{ .Values.map | toYaml | indent 4 }}
{{ fromYaml .Values.yaml }} {{ (fromYaml .Values.yaml).b }} {{ fromYamlArray "- 1\n- a" }} {{ fromJson .Values.json }} {{ fromJsonArray "[1,\"a\"]" }}
{{ toJson .Values.map }} {{ toJson .Values.mixed }} {{ toJson .Values.html }} {{ toRawJson .Values.html }} {{ toJson .Values.big }} {{ toJson .Values.tiny }} {{ toJson .Values.unicode }}
{{ toPrettyJson .Values.map }}
{{ toPrettyJson .Values.emptyMap }} {{ toPrettyJson .Values.emptyList }} {{ mustToPrettyJson (list 1 (list)) }}
{{ toToml (dict "a" 1 "b" "x" "c" true "d" 1.5 "e" (list 1 2)) }}
{{ toToml (dict "t" (dict "x" 1 "y" "z")) }}
{{ default "d" .Values.s }} {{ default "d" .Values.empty }} {{ .Values.nope | default "d" }} {{ default 5 0 }} {{ default "x" .Values.no }}
{{ empty .Values.empty }} {{ empty .Values.list }} {{ coalesce .Values.none "" 0 "z" }} {{ all 1 "" }} {{ any 0 "a" }} {{ ternary "a" "b" true }} {{ false | ternary "a" "b" }}
{{ required "need it" .Values.s }} {{ fail "x" | default "" | trunc 0 | quote | cat "" | len | print "" | trim | len | toString | int | not | toString | ternary "a" "b" (eq 1 1) | quote | empty }}
{{ upper "aé" }} {{ lower "AÉ" }} {{ title "hello wide world" }} {{ untitle "Hello World" }} {{ swapcase "aBc dEf" }} {{ initials "First Try" }} {{ nospace "a b\tc" }}
{{ trim "  x " }}| {{ trimAll "$" "$5$" }} {{ trimSuffix "-" "a-" }} {{ trimPrefix "-" "-a" }} {{ repeat 3 "ab" }} {{ substr 1 3 "abcdef" }} {{ substr -1 3 "abc" }} {{ substr 2 -1 "abcdef" }}
{{ contains "ell" "hello" }} {{ hasPrefix "he" "hello" }} {{ hasSuffix "lo" "hello" }} {{ replace "l" "L" "hello" }} {{ plural "one" "many" 2 }} {{ plural "one" "many" 1 }}
{{ quote "a" 1 nil "b\"c" }} {{ squote "a" 1 }} {{ cat "a" 1 nil "b" }} {{ quote .Values.num .Values.big .Values.yes .Values.unicode "a\nb" }}
{{ abbrev 5 "hello world" }} {{ abbrevboth 5 10 "1234 5678 9123" }} {{ wrap 10 "the quick brown fox jumps" }} {{ wrapWith 5 "-" "hello there world" }}
{{ snakecase "FirstName" }} {{ camelcase "http_server" }} {{ kebabcase "FirstName" }} {{ snakecase "HTTPServer" }} {{ kebabcase "HelloWorldTest" }} {{ camelcase "a_b_c" }}
{{ join "-" .Values.list }} {{ join "," .Values.nums }} {{ sortAlpha .Values.list }} {{ splitList "," "a,b,c" }} {{ (split "$" "a$b")._1 }} {{ (splitn "$" 2 "a$b$c")._1 }} {{ toStrings .Values.nums }}
{{ b64enc "héllo" }} {{ b64dec "aGVsbG8=" }} {{ b32enc "hello" }} {{ b32dec "NBSWY3DP" }} {{ sha256sum "x" }} {{ sha1sum "x" }} {{ adler32sum "x" }}
{{ regexMatch "^h.*o$" "hello" }} {{ regexFind "l+" "hello" }} {{ regexFindAll "[a-z]" "a1b2" -1 }} {{ regexReplaceAll "a(x*)b" "-ab-axxb-" "${1}W" }} {{ regexReplaceAllLiteral "a(x*)b" "-ab-axxb-" "${1}" }} {{ regexSplit "z+" "pizza" -1 }} {{ regexQuoteMeta "1.2.3" }}
{{ regexReplaceAll "x*" "abc" "-" }} {{ regexFindAll "a*" "baaac" -1 }} {{ regexSplit "" "abc" -1 }} {{ regexReplaceAll "(?P<n>b)" "abc" "[$n]" }} {{ regexReplaceAll "b" "abc" "$1x" }}
{{ add 1 2 3 }} {{ add1 5 }} {{ sub 5 2 }} {{ div 7 2 }} {{ mod 7 3 }} {{ mul 2 3 4 }} {{ div -7 2 }} {{ mod -7 3 }} {{ add "5" 2.9 }} {{ max 1 5 3 }} {{ min 4 2 }}
{{ addf 1.5 2 }} {{ subf 5 1.5 }} {{ mulf 1.1 3 }} {{ divf 10 4 }} {{ add1f 1.2 }} {{ maxf 1 2.5 }} {{ minf 1 2.5 }} {{ ceil 1.2 }} {{ floor 1.8 }} {{ round 3.14159 2 }}
{{ int "12" }} {{ int64 7.9 }} {{ float64 "1.5" }} {{ atoi "42" }} {{ atoi "x" }} {{ toString 5 }} {{ toDecimal "777" }} {{ int .Values.big }} {{ int64 .Values.f }}
{{ until 3 }} {{ untilStep 1 10 3 }} {{ untilStep 5 0 -2 }} {{ seq 5 }} {{ seq 2 4 }} {{ seq 0 2 10 }} {{ seq 3 1 }}
{{ list 1 "a" nil }} {{ first .Values.list }} {{ last .Values.list }} {{ rest .Values.list }} {{ initial .Values.list }} {{ reverse .Values.list }} {{ append .Values.list "z" }} {{ prepend .Values.list "z" }} {{ concat .Values.list (list 1) }}
{{ uniq (list 1 2 1 "a" "a") }} {{ without .Values.list "a" }} {{ has "a" .Values.list }} {{ has 7 .Values.nums }} {{ compact (list 0 1 "" "a" nil) }} {{ chunk 2 .Values.list }}
{{ $d := dict "a" 1 "b" 2 }}{{ $_ := set $d "c" 3 }}{{ $d }} {{ get $d "a" }} {{ get $d "zz" }} {{ hasKey $d "b" }} {{ unset $d "a" }} {{ pluck "b" $d $d }} {{ pick $d "b" }} {{ omit $d "b" }} {{ keys $d | sortAlpha }} {{ values (dict "a" 1) }}
{{ merge (dict "a" 1 "n" (dict "x" 1)) (dict "a" 2 "b" 3 "n" (dict "x" 2 "y" 3)) }} {{ mergeOverwrite (dict "a" 1 "n" (dict "x" 1)) (dict "a" 2 "n" (dict "y" 3)) }} {{ deepCopy (dict "a" (list 1)) }}
{{ merge (dict "a" false "b" 0 "c" "" "l" (list 1)) (dict "a" true "b" 5 "c" "x" "l" (list 2)) }} {{ mergeOverwrite (dict "a" true "b" 5 "l" (list 1 2)) (dict "a" false "b" 0 "l" (list)) }}
{{ dig "nested" "deep" "er" "dflt" .Values.map }} {{ dig "nested" "nope" "dflt" .Values.map }}
{{ typeOf .Values.num }} {{ kindOf .Values.num }} {{ typeOf 1 }} {{ kindOf (int64 1) }} {{ typeOf .Values.s }} {{ typeOf .Values.list }} {{ kindOf .Values.map }} {{ typeOf nil }} {{ typeOf (list) }} {{ kindIs "slice" .Values.list }} {{ typeIs "string" "x" }} {{ typeOf (splitList "," "a") }}
{{ deepEqual (list 1 2) (list 1 2) }} {{ deepEqual 1 1.0 }} {{ deepEqual .Values.map .Values.map }}
{{ base .Values.path }} {{ dir .Values.path }} {{ ext .Values.path }} {{ clean "/a/../b//c/" }} {{ isAbs .Values.path }} {{ base "" }} {{ dir "a" }}
{{ (urlParse .Values.url).host }} {{ (urlParse .Values.url).path }} {{ (urlParse .Values.url).query }} {{ (urlParse .Values.url).userinfo }} {{ urlJoin (dict "scheme" "http" "host" "h:80" "path" "/p" "query" "q=1") }}
{{ (semver .Values.semver).Major }}.{{ (semver .Values.semver).Minor }} {{ (semver .Values.semver).Prerelease }} {{ semver "v1.2" }} {{ semver "1.2.3" | toString }}
{{ semverCompare ">=1.20-0" "1.27.3" }} {{ semverCompare "^1.2" "1.9.0" }} {{ semverCompare "~1.2.3" "1.3.0" }} {{ semverCompare "1.x" "1.5.0" }} {{ semverCompare ">=1.2 <2 || >3" "2.5.0" }} {{ semverCompare "1.2 - 1.4" "1.4.5" }} {{ semverCompare ">1.2.3" "1.3.0-rc1" }} {{ semverCompare "!=1.2.3" "1.2.3" }} {{ semverCompare "^0.2.3" "0.2.9" }} {{ semverCompare "<1.5" "1.4.9" }}
{{ date "2006-01-02 15:04:05" (toDate "2006-01-02" "2021-03-04") }} {{ dateInZone "Mon Jan _2 15:04 MST 2006" (toDate "2006-01-02" "2021-03-04") "UTC" }} {{ htmlDate 86400 }} {{ duration 95 }} {{ durationRound "2h10m5s" }} {{ unixEpoch (toDate "2006-01-02" "1970-01-02") }}
{{ dateModify "-1h30m" (toDate "2006-01-02 15:04" "2021-03-04 10:00") | date "15:04" }} {{ date "3:04PM Jan 2, 06 Monday January 002" (toDate "2006-01-02" "2021-03-04") }}
{{ .Release.Name }} {{ .Release.Namespace }} {{ .Release.IsInstall }} {{ .Release.IsUpgrade }} {{ .Release.Service }} {{ .Release.Revision }}
{{ .Chart.Name }} {{ .Chart.Version }} {{ .Chart.AppVersion }} {{ .Chart.IsRoot }} {{ .Template.BasePath }} {{ .Chart.Type }}
{{ .Files.Get "data/one.txt" }}|{{ .Files.Get "nope" }}|{{ range $p, $_ := .Files.Glob "data/*.txt" }}{{ $p }};{{ end }}{{ (.Files.Glob "data/*.txt").AsConfig }}
{{ (.Files.Glob "data/*").AsSecrets }}|{{ range .Files.Lines "data/one.txt" }}[{{ . }}]{{ end }}
{{ tpl "{{ .Values.s }}-{{ .Release.Name }}" . }} {{ tpl "{{ include \"shared\" . }}" . }} {{ include "shared" . }} {{ include "shared" . | upper }}
{{ lookup "v1" "Pod" "a" "b" }} {{ .Capabilities.APIVersions.Has "apps/v9" }} {{ hello }}
{{- range $i, $t := .Values.tricky }}
{{ $i }}: {{ $t | quote }} {{ $t | squote }}
{{- end }}
{{ range tuple 1 "a" }}{{ . }}{{ end }}{{ if and (or .Values.no .Values.yes) (not .Values.none) }}ok{{ end }}{{ if (eq (len .Values.list) 3) }}three{{ end }}
a {{- " b " -}} c
{{ with $m := .Values.map }}{{ $m.a }}{{ end }}{{ $a := .Values.list }}{{ $a }}{{ $.Values.s }}{{ $.Release.Name }}
{{ "quoted" | quote | quote }} {{ `a"b` | toJson }} {{ "a\\b" }} {{ "é\u00e9\x41\101" }}
{{ derivePassword 1 "long" "password" "user" "example.com" }} {{ getHostByName "nothing.invalid" }}
{{ ternary 1 2 .Values.yes | add 1 }} {{ 5 | int64 | mul 2 }} {{ .Values.nums | join "" | atoi | add1 }}
{{ if not (hasKey .Values "nothing") }}absent{{ end }} {{ .Values | keys | len }} {{ index .Values "s" }}
{{ printf "%v %v %v" 1e6 100000.0 123456789.0 }} {{ 1e6 }} {{ 1e20 }} {{ 1e21 }} {{ 0.00001 }} {{ 100000.0 }} {{ 21e0 }} {{ .Values.big | int }} {{ .Values.big | toString }} {{ .Values.big | quote }}
"""


def lines() -> list[str]:
    """One template each; the continued ones (`{{- range … end }}`) are joined again."""
    out: list[str] = []
    for line in _PLAIN.strip("\n").split("\n"):
        if out and out[-1].count("{{- range") > out[-1].count("{{- end"):
            out[-1] += "\n" + line
        else:
            out.append(line)
    return [t for t in out if "fail " not in t]


ERRORS = (
    "{{ .Values.a.b.c }}",
    "{{ .Values.s.x }}",
    "{{ fail \"because\" }}",
    "{{ required \"it must be set\" .Values.none }}",
    "{{ template \"nowhere\" . }}",
    "{{ include \"nowhere\" . }}",
    "{{ index .Values.list 9 }}",
    "{{ eq .Values.num 7 }}",
    "{{ trunc .Values.num \"x\" }}",
    "{{ upper .Values.num }}",
    "{{ div 1 0 }}",
    "{{ len 5 }}",
    "{{ lt 1 \"a\" }}",
    "{{ range .Values.s }}x{{ end }}",
    "{{ first .Values.s }}",
    "line\n  {{ .Values.s | nindent }}",
    "{{ if }}{{ end }}",
    "{{ nofunction 1 }}",
    "{{ $x }}",
    "{{ end }}",
    "{{ if true }}",
    "{{ \"open }}",
    "{{ .a..b }}",
    "{{ (1 }}",
    "{{ break }}",
    "{{ 1.2.3 }}",
    "{{ else }}",
)  # fmt: skip
"""Templates that fail, for helm and for us."""
