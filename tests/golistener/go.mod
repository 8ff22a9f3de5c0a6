module acceptd.test/golistener

go 1.24
