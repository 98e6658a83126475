"""Hand-written explanations of Python's vocabulary, which the standard library never defines."""

from __future__ import annotations

Concept = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of one concept, and explanations of it."""

CONCEPTS: tuple[Concept, ...] = (
    (("a generator", "generators", "a generator function", "a Python generator", "generator"),
     ("A generator is a function that uses yield instead of return. Calling it returns an "
      "iterator. Each time a value is asked for, the function runs until the next yield and "
      "then waits, keeping its local variables.",)),
    (("an iterator", "iterators", "iterator"),
     ("An iterator is an object that gives its values one at a time. The function next() "
      "returns the next value, and StopIteration is raised when there are no more. A for loop "
      "does this for you.",)),
    (("an iterable", "iterables"),
     ("An iterable is an object that can return its members one at a time, such as a list, a "
      "string, a dict or a file. The function iter() makes an iterator from it, and a for "
      "loop calls it.",)),
    (("a decorator", "decorators", "a Python decorator", "decorator"),
     ("A decorator is a function that takes a function and returns another one in its place. "
      "It is written above the definition with an @ sign. Common decorators are property, "
      "staticmethod and functools.lru_cache.",)),
    (("a list", "lists", "a Python list", "the list type", "list"),
     ("A list is a mutable sequence of objects, written in square brackets such as [1, 2, 3]. "
      "Items can be added with append, removed with pop, and read by their position, which "
      "starts at zero.",)),
    (("a tuple", "tuples", "a Python tuple", "tuple"),
     ("A tuple is an immutable sequence of objects, written with commas and usually in "
      "parentheses, such as (1, 2). It cannot be changed after it is made, so it can be a key "
      "of a dict.",)),
    (("a dictionary", "a dict", "dictionaries", "dicts", "a Python dictionary", "dict"),
     ("A dictionary, or dict, maps keys to values. It is written in braces such as {'a': 1}. "
      "A value is read with d[key], and keys must be hashable. Dictionaries keep the order in "
      "which keys were added.",)),
    (("a set", "sets", "a Python set", "set"),
     ("A set is a collection of distinct hashable objects without order. It is written in "
      "braces such as {1, 2, 3}. Sets test membership quickly and support union, intersection "
      "and difference.",)),
    (("a string", "strings", "a str", "a Python string"),
     ("A string is an immutable sequence of Unicode characters, written in single or double "
      "quotes. Strings have many methods, such as split, join, strip and replace. Each of "
      "them returns a new object.",)),
    (("an integer", "integers", "an int", "int"),
     ("An integer is a whole number of type int. Integers in Python have no largest value: "
      "they grow as large as memory allows.",)),
    (("a float", "floats", "floating point numbers", "float"),
     ("A float is a floating point number with double precision, such as 3.14. Most decimal "
      "fractions cannot be represented exactly; the decimal module helps where that matters.",)),
    (("a boolean", "booleans", "a bool", "True and False"),
     ("A boolean is one of the two values True and False. Comparisons return booleans, and "
      "every object can be tested for its truth value in an if or while condition.",)),
    (("None", "the None object", "the None value"),
     ("None is the object that stands for the absence of a value. A function without a return "
      "statement returns None. There is only one None, so it is tested with the is operator.",)),
    (("a class", "classes", "a Python class"),
     ("A class is a template for objects. It is defined with the class statement and holds "
      "methods, which are functions that take the object as their first argument, self. "
      "Calling the class makes an instance.",)),
    (("an object", "objects", "an instance"),
     ("Objects are Python's abstraction for data. Every object has an identity, a type and a "
      "value. An object made by calling a class is an instance of that class.",)),
    (("a function", "functions", "a Python function", "the def statement"),
     ("A function is a block of code with a name, defined with the def statement. It takes "
      "arguments, runs its body when it is called, and gives a value back with return.",)),
    (("a method", "methods"),
     ("A method is a function that belongs to a class. It is called on an object, as in "
      "'a,b'.split(','), and receives that object as its first argument, which is called self.",)),
    (("inheritance", "a subclass", "subclasses", "a base class"),
     ("A class can inherit from another class, its base class. It then has all the methods of "
      "the base class and may override some of them. The function super() calls the "
      "overridden method.",)),
    (("a module", "modules", "a Python module"),
     ("A module is a file of Python code that other code can import. It has its own names, "
      "which are read with a dot, as in math.pi.",)),
    (("a package", "packages", "a Python package"),
     ("A package is a module that can contain other modules. It is usually a folder with a "
      "file called __init__.py, and its parts are imported with a dot, as in os.path.",)),
    (("the import statement", "importing", "an import"),
     ("The import statement finds a module, runs it if it was not loaded before, and binds "
      "its name. The form from module import name binds single names of the module.",)),
    (("an exception", "exceptions", "a Python exception", "error handling"),
     ("An exception is an object that signals an error. It is raised with the raise statement "
      "and handled with try and except. An exception that is not handled stops the program "
      "with a traceback.",)),
    (("the try statement", "try and except", "try", "the finally clause"),
     ("The try statement runs a block and handles exceptions in it. An except clause names "
      "the exceptions it handles, else runs if there was none, and finally runs in every case.",)),
    (("a context manager", "context managers", "the with statement", "with"),
     ("A context manager is an object used with the with statement. Its method __enter__ runs "
      "before the block and __exit__ after it, even if an exception was raised. Files are "
      "closed this way.",)),
    (("a lambda", "lambda", "lambdas", "a lambda expression"),
     ("A lambda is a small function without a name, written as an expression, such as lambda "
      "x: x + 1. It is often used as the key argument of sorted.",)),
    (("a list comprehension", "list comprehensions", "a comprehension", "comprehensions"),
     ("A list comprehension builds a list from an iterable in one expression, such as [x * x "
      "for x in range(10)]. An if at the end keeps only some of the items.",)),
    (("the GIL", "the global interpreter lock", "GIL"),
     ("The global interpreter lock, or GIL, lets only one thread run Python code at a time. "
      "Threads still help when they wait for files or networks. For computing on many cores, "
      "use the multiprocessing module.",)),
    (("a coroutine", "coroutines", "async", "async and await", "asynchronous programming"),
     ("A coroutine is a function defined with async def. It can wait for other coroutines "
      "with await, and while it waits, the event loop runs something else. Use asyncio.run to "
      "start one.",)),
    (("an event loop", "the event loop"),
     ("The event loop runs coroutines and callbacks. When one of them waits, it goes on with "
      "another. The function asyncio.run makes an event loop, runs a coroutine and closes the "
      "loop.",)),
    (("a thread", "threads", "threading in Python"),
     ("A thread is a flow of control that shares memory with the other threads of its "
      "process. The threading module starts threads, and locks protect the data that they "
      "share.",)),
    (("a process", "processes"),
     ("A process is a running program with its own memory. The subprocess module starts other "
      "programs, and the multiprocessing module runs Python functions in other processes.",)),
    (("a variable", "variables", "a name"),
     ("A variable is a name that refers to an object. An assignment such as x = 1 binds the "
      "name. The same name can later refer to an object of another type.",)),
    (("a loop", "loops", "a for loop", "for loops", "the for statement"),
     ("A for loop runs a block once for each item of an iterable, as in: for item in items. "
      "The statement break leaves the loop, and continue goes on with the next item.",)),
    (("a while loop", "while loops", "the while statement"),
     ("A while loop runs a block as long as its condition is true. The statement break leaves "
      "the loop and continue goes back to the condition.",)),
    (("the if statement", "an if statement", "elif"),
     ("The if statement runs a block if its condition is true. Clauses with elif test further "
      "conditions, and else runs if none of them was true.",)),
    (("slicing", "a slice", "slices"),
     ("Slicing takes a part of a sequence, written as s[start:stop:step]. The start is "
      "included and the stop is not. Missing parts mean the whole sequence, and negative "
      "positions count from the end.",)),
    (("an f-string", "f-strings", "string formatting"),
     ("An f-string is a string with an f before the quotes. Expressions in braces are "
      "computed and put into the text, as in f'{name} is {age}'. A colon starts a format "
      "specification.",)),
    (("a docstring", "docstrings"),
     ("A docstring is a string at the beginning of a module, class or function that describes "
      "it. It is kept in the attribute __doc__ and shown by the function help().",)),
    (("a type hint", "type hints", "annotations", "type annotations"),
     ("A type hint says which type an argument, variable or return value should have, as in "
      "def f(x: int) -> str. Python does not check it when the program runs; other tools do.",)),
    (("a dataclass", "dataclasses"),
     ("A dataclass is a class that mainly holds data. The decorator dataclasses.dataclass "
      "reads the annotated fields and adds methods such as __init__, __repr__ and __eq__.",)),
    (("an enum", "enums", "an enumeration"),
     ("An enum is a class whose members are a fixed set of named constants. It is made by "
      "inheriting from enum.Enum, and its members can be compared and iterated over.",)),
    (("a property", "properties"),
     ("A property is an attribute that is computed by a method. It is made with the property "
      "decorator, and it may have a setter that runs when the attribute is assigned.",)),
    (("a virtual environment", "virtual environments", "venv"),
     ("A virtual environment is a folder with its own Python and its own installed packages, "
      "apart from the rest of the system. The command python -m venv makes one.",)),
    (("pip", "the pip command"),
     ("pip is the program that installs Python packages. The command python -m pip install "
      "name fetches a package and the packages it needs.",)),
    (("a regular expression", "regular expressions", "regex"),
     ("A regular expression is a pattern that describes a set of strings. The re module "
      "searches, splits and replaces text with such patterns, for example with re.search and "
      "re.sub.",)),
    (("JSON", "the JSON format"),
     ("JSON is a text format for data. The json module writes it with json.dumps and reads it "
      "with json.loads. Python dicts become JSON objects and lists become arrays.",)),
    (("garbage collection", "the garbage collector", "reference counting"),
     ("Python frees an object when nothing refers to it any more. It counts references, and a "
      "garbage collector finds groups of objects that refer only to each other. The gc module "
      "controls it.",)),
    (("a closure", "closures", "scope", "a namespace", "namespaces"),
     ("A namespace maps names to objects. A function has its own local namespace and can read "
      "names of the functions around it; an inner function that remembers such names is "
      "called a closure.",)),
    (("recursion", "a recursive function"),
     ("Recursion means that a function calls itself with a smaller problem, until the problem "
      "is simple enough to answer directly. Python limits the depth; see "
      "sys.setrecursionlimit.",)),
    (("an argument", "arguments", "args and kwargs", "*args and **kwargs", "keyword arguments"),
     ("An argument is a value passed to a function. Positional arguments are matched by order "
      "and keyword arguments by name. *args collects further positional arguments in a tuple "
      "and **kwargs collects further keyword arguments in a dict.",)),
)  # fmt: skip

HOW_TO: tuple[tuple[str, str], ...] = (
    ("How do I read a file?",
     "Open it with the with statement and call read:\n\n```python\nwith open('data.txt', "
     "encoding='utf-8') as file:\n    text = file.read()\n```"),
    ("How do I open a file in Python?",
     "Call open with the path and a mode, best in a with statement, so that the file is "
     "closed afterwards:\n\n```python\nwith open('data.txt') as file:\n    for line in "
     "file:\n        print(line)\n```"),
    ("How do I write to a file?",
     "Open it with mode 'w' and call write:\n\n```python\nwith open('data.txt', 'w', "
     "encoding='utf-8') as file:\n    file.write('Hello')\n```"),
    ("How do I sort a list?",
     "Call sorted(items) for a new sorted list, or items.sort() to sort the list itself. Both "
     "take a key function and the argument reverse=True."),
    ("How do I reverse a list?",
     "Call items.reverse() to reverse the list itself, or use items[::-1] for a reversed copy."),
    ("How do I reverse a string?",
     "Use a slice with a negative step: text[::-1] is the string in reverse order."),
    ("How do I parse JSON?",
     "Use the json module. json.loads(text) turns a JSON text into Python objects, and "
     "json.load(file) reads it from a file."),
    ("How do I define a function?",
     "Use the def statement:\n\n```python\ndef add(a, b):\n    return a + b\n```"),
    ("How do I define a class?",
     "Use the class statement:\n\n```python\nclass Point:\n    def __init__(self, x, "
     "y):\n        self.x = x\n        self.y = y\n```"),
    ("How do I write a loop?",
     "Use a for loop over an iterable:\n\n```python\nfor number in range(3):\n    "
     "print(number)\n```"),
    ("How do I catch an exception?",
     "Put the code in a try block and handle the error in an except clause:\n\n```python\n"
     "try:\n    value = int(text)\nexcept ValueError:\n    value = 0\n```"),
    ("How do I join strings?",
     "Call the join method of the separator: ', '.join(names) puts a comma between the names."),
    ("How do I split a string?",
     "Call text.split() to split at white space, or text.split(',') to split at commas. The "
     "result is a list of strings."),
    ("How do I get the current time?",
     "Call datetime.datetime.now() for the date and time, or time.time() for the seconds "
     "since the epoch."),
    ("How do I generate a random number?",
     "Use the random module. random.random() returns a float between 0 and 1, and "
     "random.randint(1, 6) returns an integer between 1 and 6."),
    ("How do I list the files in a folder?",
     "Use pathlib: Path('folder').iterdir() gives the paths in a folder, and "
     "Path('folder').glob('*.txt') only those that match a pattern."),
    ("How do I run another program?",
     "Use the subprocess module. subprocess.run(['ls', '-l'], check=True) runs a program, "
     "waits for it and raises an exception if it failed."),
    ("How do I convert a string to an integer?",
     "Call int(text). It raises ValueError if the text is not a number. Use int(text, 16) for "
     "hexadecimal."),
    ("How do I add an item to a list?",
     "Call items.append(item) to add one item at the end, or items.extend(others) to add "
     "several."),
    ("How do I install a package?",
     "Use pip: the command python -m pip install name fetches the package and the packages it "
     "needs."),
    ("What is the difference between a list and a tuple?",
     "A list is mutable: items can be added, removed and replaced. A tuple is immutable, so "
     "it can be a key of a dict."),
    ("What is the difference between == and is?",
     "The operator == compares values, and is compares identity: whether both names refer to "
     "the same object."),
    ("Write a function that adds two numbers.",
     "```python\ndef add(a, b):\n    return a + b\n```"),
    ("Write a function that computes the factorial.",
     "```python\ndef factorial(n):\n    if n < 2:\n        return 1\n    return n * "
     "factorial(n - 1)\n```"),
    ("Write a Fibonacci function.",
     "```python\ndef fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = "
     "b, a + b\n    return a\n```"),
)  # fmt: skip
