//! Makes a failing case small.

use serde_json::Value;

use crate::case::Case;

/// Removes objects, list items and fields of the last case for as long as `fails` says so of the rest, and probes that
/// are not needed. The earlier cases of a sequence lose objects too.
pub fn shrink(cases: &[Case], fails: &dyn Fn(&[Case]) -> bool) -> Vec<Case> {
    let mut cases = cases.to_vec();
    loop {
        let before = cases.clone();
        drop_cases(&mut cases, fails);
        for index in 0..cases.len() {
            drop_items(&mut cases, fails, &|cases| {
                cases.get_mut(index).map(|case| &mut case.probes)
            });
            drop_items(&mut cases, fails, &|cases| {
                cases.get_mut(index).map(|case| &mut case.objects)
            });
            let n_objects = cases.get(index).map_or(0, |case| case.objects.len());
            for object in 0..n_objects {
                prune(&mut cases, fails, index, object);
            }
        }
        if cases == before {
            return cases;
        }
    }
}

fn drop_cases(cases: &mut Vec<Case>, fails: &dyn Fn(&[Case]) -> bool) {
    let mut index = 0;
    while cases.len() > 1 && index < cases.len() {
        let removed = cases.remove(index);
        if !fails(cases) {
            cases.insert(index, removed);
            index += 1;
        }
    }
}

/// Removes what it can from a list.
fn drop_items<T: Clone>(
    cases: &mut [Case],
    fails: &dyn Fn(&[Case]) -> bool,
    list: &dyn Fn(&mut [Case]) -> Option<&mut Vec<T>>,
) {
    let mut index = 0;
    while let Some(items) = list(cases).filter(|items| index < items.len()) {
        let removed = items.remove(index);
        if fails(cases) {
            continue;
        }
        if let Some(items) = list(cases) {
            items.insert(index, removed);
        }
        index += 1;
    }
}

/// Removes fields and items of one object.
fn prune(cases: &mut [Case], fails: &dyn Fn(&[Case]) -> bool, case: usize, object: usize) {
    let mut pointers = Vec::new();
    let value = |cases: &mut [Case]| -> Option<Value> {
        cases.get(case).and_then(|case| case.objects.get(object)).cloned()
    };
    let Some(whole) = value(cases) else { return };
    collect_pointers(&whole, "", &mut pointers);
    for pointer in pointers {
        let Some(before) = value(cases) else { return };
        let mut smaller = before.clone();
        if !remove(&mut smaller, &pointer) {
            continue;
        }
        let mut put = |value: Value| {
            if let Some(slot) = cases.get_mut(case).and_then(|case| case.objects.get_mut(object)) {
                *slot = value;
            }
            fails(cases)
        };
        if !put(smaller) {
            put(before);
        }
    }
}

/// Inner places first from the end, so that the pointers of those before stay right.
fn collect_pointers(value: &Value, pointer: &str, pointers: &mut Vec<String>) {
    if !pointer.is_empty() {
        pointers.push(pointer.to_owned());
    }
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect_pointers(inner, &format!("{pointer}/{name}"), pointers);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate().rev() {
                collect_pointers(inner, &format!("{pointer}/{index}"), pointers);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn remove(value: &mut Value, pointer: &str) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let name = name.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => fields.remove(&name).is_some(),
        Some(Value::Array(items)) => {
            let index = name.parse().ok().filter(|index| *index < items.len());
            index.map(|index: usize| items.remove(index)).is_some()
        }
        _ => false,
    }
}
