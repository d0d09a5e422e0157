//! Every fault of a definition file, with its place and its mend.

use aggregates::Aggregates;
use selvedge_guest::Plugin;
use serde_json::{Value, json};

/// The faults of a configuration, each as `place: detail`.
fn faults(config: &Value) -> Vec<String> {
    let faults = Aggregates::configure(&config.to_string()).expect_err("a faulty configuration");
    faults.into_iter().map(|fault| format!("{}: {}", fault.place, fault.detail)).collect()
}

/// Checks that a definition has one fault, which begins and ends so.
fn check(definition: Value, expected: &str) {
    let found = faults(&json!({ "aggregate": [definition] }));
    assert!(found.len() == 1 && found[0].contains(expected), "{expected:?} is not what is found: {found:#?}");
}

fn with(changes: Value) -> Value {
    let mut definition = json!({"name": "a", "operator": "sum", "event": "E", "value": "properties.total"});
    for (key, value) in changes.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(definition.as_object_mut().map(|table| table.remove(key))),
            _ => definition[key] = value.clone(),
        }
    }
    definition
}

#[test]
fn what_a_definition_lacks_or_has_too_much() {
    check(json!(7), "aggregate[0]: is no table");
    check(with(json!({"wher": "true"})), "aggregate[0].wher: unknown key \"wher\"; did you mean \"where\"?");
    check(with(json!({"half-life": "30d"})), "aggregate[0].half-life: unknown key \"half-life\"; known are name, ");
    check(with(json!({"name": null})), "aggregate[0].name: is missing");
    check(with(json!({"name": 5})), "aggregate[0].name: is no text");
    check(with(json!({"name": "Big Orders"})), "aggregate[0].name: \"Big Orders\" may hold lower-case letters");
    check(with(json!({"operator": null})), "aggregate[0].operator: is missing");
    check(with(json!({"kind": "decimals"})), "aggregate[0].kind: unknown kind \"decimals\"; did you mean \"decimal\"?");
    check(with(json!({"unit": 1})), "aggregate[0].unit: is no text");
    check(with(json!({"windows": [7]})), "aggregate[0].windows: is neither a text nor a list of texts");
    check(with(json!({"parameters": "x"})), "aggregate[0].parameters: is no table");
    check(with(json!({"parameters": {"of": []}})), "aggregate[0].parameters.of: is neither a text nor a number");
    check(with(json!({"event": null})), "aggregate[0].event: \"a\" names no event");
    check(with(json!({"event": []})), "aggregate[0].event: \"a\" names no event");
    check(with(json!({"event": 1})), "aggregate[0].event: is neither");
    check(with(json!({"event": "$pages"})), "aggregate[0].event: unknown event \"$pages\"; did you mean \"$page\"?");
    check(with(json!({"event": ["E", "E"]})), "aggregate[0].event: \"E\" is empty or stands twice");
    check(with(json!({"value": null})), "aggregate[0].value: \"a\" needs a value: sum has one for each event");
    check(with(json!({"key": "properties.k"})), "aggregate[0].key: \"a\" takes no key");
    check(with(json!({"operator": "count"})), "aggregate[0].value: \"a\" takes no value: count has none");
    check(with(json!({"operator": "distinct", "value": null})), "aggregate[0].key: \"a\" needs a key");
    check(
        with(json!({"operator": "last", "kind": "key", "key": "properties.k"})),
        "aggregate[0].value: \"a\" takes no value",
    );
    check(with(json!({"operator": "ratio"})), "aggregate[0].event: \"a\" is computed from other aggregates");
    check(with(json!({"where": true})), "aggregate[0].where: of \"a\" is no text; write the expression in quotes");
    check(with(json!({"from": []})), "aggregate[0].event: of \"a\" stands beside `from`");
    let from = |entries: Value| json!({"name": "a", "operator": "sum", "from": entries});
    check(from(json!([])), "aggregate[0].from: is no list; write each source under [[aggregate.from]]");
    check(from(json!([1])), "aggregate[0].from[0]: is no table");
    check(from(json!([{"event": "E", "value": "1", "name": "x"}])), "aggregate[0].from[0].name: unknown key \"name\"");
    check(
        from(json!([{"event": "E", "value": "1"}, {"event": "E", "value": "a b"}])),
        "aggregate[0].from[1].value: of \"a\", at character 3: does not parse",
    );
}

#[test]
fn the_whole_file_is_checked_and_all_faults_are_told() {
    assert_eq!(faults(&json!([])), [": is no table"]);
    assert_eq!(faults(&json!({"agregate": []})), ["agregate: unknown key \"agregate\"; did you mean \"aggregate\"?"]);
    assert!(faults(&json!({"aggregate": {}}))[0].contains("is no list; write each definition under [[aggregate]]"));
    assert!(Aggregates::configure("{").expect_err("no JSON")[0].detail.contains("is not JSON"));
    let deep = format!("{{\"aggregate\": {}{}}}", "[".repeat(60), "]".repeat(60));
    assert!(Aggregates::configure(&deep).expect_err("too deep")[0].detail.contains("more than 16 tables and lists"));
    let brackets = json!({"aggregate": [with(json!({"where": "properties.a == '\"[[[[[[[[[[[[[[[[[['"}))]});
    assert!(Aggregates::configure(&brackets.to_string()).is_ok(), "brackets in a text are no lists");
    let twice = json!({"aggregate": [with(json!({})), with(json!({"value": "1 +", "where": "x"}))]});
    let found = faults(&twice);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!(found[0], "aggregate[1].name: \"a\" is the name of aggregate[0] already");
    assert!(found[1].starts_with("aggregate[1].where: of \"a\", at character 1: unknown name \"x\"; known are "));
    assert!(found[2].starts_with("aggregate[1].value: of \"a\", at character 4: does not parse"), "{}", found[2]);
    let many: Vec<Value> = (0..257).map(|index| with(json!({"name": format!("a{index}")}))).collect();
    assert_eq!(faults(&json!({"aggregate": many})), ["aggregate: there are 257; at most 256 fit"]);
    assert!(Aggregates::configure(&json!({"aggregate": many[1..]}).to_string()).is_ok());
    assert!(Aggregates::configure("{}").is_ok(), "no definitions at all");
    // What the host would refuse of every event is refused here.
    let through = |index: usize| with(json!({"name": format!("a{index}"), "value": "properties.items[].n"}));
    let list = |count: usize| json!({"aggregate": (0..count).map(through).collect::<Vec<_>>()});
    assert!(Aggregates::configure(&list(16).to_string()).is_ok());
    assert!(faults(&list(17))[0].contains("each element of `properties.items[]` in \"E\" counts for 17 aggregates"));
}

#[test]
fn an_operator_that_only_the_host_knows_is_passed_on() {
    let program = json!({"aggregate": [
        with(json!({"operator": "median", "windows": ["30d"], "parameters": {"wide": 2, "share": 0.5}})),
        {"name": "b", "operator": "skew", "parameters": {"of": "a"}},
    ]});
    let kept = Aggregates::configure(&program.to_string()).expect("good definitions");
    Aggregates::restore(&kept);
    let described = Aggregates::description();
    let shown: Vec<_> =
        described.aggregates.iter().map(|one| (one.operator.as_str(), one.parameters.clone())).collect();
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(shown, [("median", vec![text("share", "0.5"), text("wide", "2")]), ("skew", vec![text("of", "a")])]);
}

#[test]
fn what_is_not_in_the_subset_is_named_with_its_place() {
    let table = [
        ("properties.n / 2 == 1", "at character 14: `/` is no number"),
        ("properties.n % 2 == 1", "at character 14: `%` is no number"),
        ("properties.n + 1", "at character 14: `+` is no condition"),
        ("'text'", "at character 1: a text is no condition"),
        ("5", "at character 1: a number is no condition"),
        ("null", "at character 1: `null` is no condition"),
        ("[true]", "at character 1: a list is no condition"),
        ("{'a': 1}", "at character 1: a map is no condition"),
        ("Order{a: 1}", "at character 1: a message is no condition"),
        ("properties.items[].all(i, i > 1)", "a macro such as `all()`, `exists()` or `map()` is no condition"),
        ("properties.items[].map(i, i.n)", "a macro such as"),
        ("properties.text.matches('a.*')", "at character 24: `matches()` is no condition"),
        ("int(properties.n) == 1", "at character 1: `int()` is no number"),
        ("timestamp > 5", "at character 1: `timestamp` is an instant"),
        ("messageId > 5", "at character 1: `messageId` is a text"),
        ("properties.items[0].n == 1", "an index other than `[]` or a name in quotes"),
        ("properties.n == null", "at character 14: compares with `null`; ask whether it is there with `has()`"),
        ("properties.a == properties.b", "at character 14: compares two paths"),
        ("'a' == 'b'", "at character 5: compares a text with a text; only a path can be"),
        ("(properties.n + 1) == 'a'", "compares `+` with a text"),
        ("(1 < 2) == true", "compares `<` with true or false"),
        ("properties.text < 'b'", "at character 19: a text is no number"),
        ("properties.n in properties.list", "at character 27: `in` takes a list in brackets, not `properties.list`"),
        ("properties.n in []", "`in` takes a list with something in it"),
        ("properties.n in [1, 'a']", "the list after `in` has texts and others in it"),
        ("properties.n in [1, true]", "true or false is no number"),
        ("properties.n + 1 in ['a']", "`+` cannot be one of some texts"),
        ("properties.text.contains(properties.part)", "`contains()` takes a text in quotes, not `properties.part`"),
        ("'banana'.contains('nan')", "`contains()` is asked of a text; it is a path's"),
        ("size(properties.text) > 1", "at character 16: `size()` takes a path with `[]`"),
        ("size('abc') == 3", "`size()` takes a path with `[]`, such as properties.products[].price, not a text"),
        ("propertees.n == 1", "at character 11: unknown name \"propertees\"; did you mean \"properties\"?"),
        ("total > 1", "unknown name \"total\"; known are properties, traits, context"),
        ("properties > 1", "`properties` is an object; name a value in it"),
        ("name.first == 'a'", "`name` has nothing in it"),
        ("properties[] == 1", "`properties` is no list"),
        ("properties.a[].b[].c == 1", "has two `[]`"),
        ("properties['a.b'] == 1", "has a name that is empty or has `.`"),
        (
            "properties.a[].n > 1 && properties.b[].n > 1",
            "goes through `properties.b[]`, the same source through `properties.a[]`",
        ),
        ("properties.n == 0.0000001", "more than six decimals"),
        ("properties.n == 5000000000.5", "beyond a billion with a fraction"),
        ("properties.n == 10000000000000", "beyond what a decimal holds"),
        ("has(properties)", "does not parse: invalid argument to has() macro"),
        ("has(properties['n'])", "does not parse: invalid argument to has() macro"),
        ("properties.a &&\n  properties.b / 2 > 1", "at line 2, character 16: `/` is no number"),
    ];
    for (text, expected) in table {
        let found = faults(&json!({"aggregate": [{"name": "a", "operator": "count", "event": "E", "where": text}]}));
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {expected:?} is not in {found:#?}");
        assert!(found[0].starts_with("aggregate[0].where: of \"a\", "), "{found:#?}");
    }
}

#[test]
fn values_and_keys_have_faults_of_their_own() {
    check(with(json!({"value": "properties.a == 1"})), "at character 14: `==` is no number");
    check(with(json!({"value": "true"})), "true or false is no number");
    check(with(json!({"value": "timestamp"})), "only a value of kind instant can be");
    check(with(json!({"kind": "instant", "value": "timestamp + 1"})), "`+` is no instant");
    check(with(json!({"kind": "instant", "value": "5"})), "a number is no instant");
    check(with(json!({"kind": "integer", "value": "1.5"})), "has a fraction where whole numbers are counted");
    let key = |text: &str| json!({"name": "a", "operator": "distinct", "event": "E", "key": text});
    check(key("'constant'"), "a text is no key; a key is a path, or `condition ? path : path`");
    check(key("properties.a + properties.b"), "`+` is no key");
}

#[test]
fn uses_that_exclude_each_other_name_both_places() {
    let pair = |one: &str, other: &str| {
        faults(&json!({"aggregate": [
            {"name": "a", "operator": "count", "event": "E", "where": one},
            {"name": "b", "operator": "count", "event": "F", "where": other},
        ]}))
    };
    assert_eq!(
        pair("properties.x == 'a'", "properties.x > 1"),
        [
            "aggregate[1].where: of \"b\", at character 11: `properties.x` is used as a number here and as a text in aggregate[0].where"
        ]
    );
    assert!(
        pair("properties.x", "properties.x == 'a'")[0]
            .contains("as a text here and as true or false in aggregate[0].where")
    );
    assert!(pair("properties.x.y > 1", "properties.x > 1")[0].contains("reads `properties.x` as a value of its own"));
    assert!(pair("has(properties.x)", "properties.x.y > 1")[0].contains("aggregate[0].where reads `properties.x`"));
    // Asking whether it is there goes with every type.
    for other in ["properties.x == 'a'", "properties.x > 1", "properties.x", "properties.x.contains('a')"] {
        let both = json!({"aggregate": [
            {"name": "a", "operator": "count", "event": "E", "where": "has(properties.x)"},
            {"name": "b", "operator": "count", "event": "F", "where": other},
        ]});
        assert!(Aggregates::configure(&both.to_string()).is_ok(), "{other}");
    }
}
